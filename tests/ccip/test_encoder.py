"""The encoder interface against dghs-imgutils' answers, and its errors."""

import hashlib
import json
import shutil
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file

import numpy as np
import pytest
from PIL import Image

from ccip.encoder import CcipEncoder, model_input, read_threshold

MODEL = "ccip-caformer-24-randaug-pruned"


@pytest.fixture(scope="module")
def answers(golden: Path) -> dict:
    return json.loads((golden / "evaluate/ccip/set/expected.json").read_text())


@pytest.fixture(scope="module")
def hub(golden: Path) -> Path:
    return golden / "evaluate/ccip/hub/deepghs/ccip_onnx"


def open_images(golden: Path, names: list[str]) -> list[Image.Image]:
    return [Image.open(golden / "evaluate/ccip/set/images" / name) for name in names]


@pytest.mark.golden
def test_preprocessing_has_the_reference_bits(golden: Path, answers: dict):
    names = answers["files"]
    found = {
        n: hashlib.sha256(model_input(i).tobytes()).hexdigest() for n, i in zip(names, open_images(golden, names), strict=True)
    }
    assert found == answers["preprocess_sha256"]


@pytest.mark.golden
def test_features_are_the_references(golden: Path, hub: Path, answers: dict):
    encoder = CcipEncoder(hub / MODEL)
    features = np.stack([encoder.features(image) for image in open_images(golden, answers["files"])])
    expected = np.load(golden / "evaluate/ccip/set/expected.npz")["features"]
    assert features.dtype == np.float32
    assert np.abs(features - expected).max() <= 1e-5


@pytest.mark.golden
def test_thresholds_come_from_the_folder(hub: Path, answers: dict):
    assert CcipEncoder(hub / MODEL).threshold == answers["threshold"]
    assert read_threshold(hub / "ccip-tiny-alt" / "metrics.json") == answers["threshold_alt"]


def test_preprocessing_leaves_the_picture_alone():
    picture = Image.new("P", (20, 30))
    picture.putpalette([0, 0, 0, 255, 255, 255])
    before = picture.getpalette(), picture.mode, picture.size
    assert model_input(picture).shape == (1, 3, 384, 384)
    assert (picture.getpalette(), picture.mode, picture.size) == before


@pytest.fixture
def broken(hub: Path, tmp_path: Path) -> Path:
    """A copy of a good folder, to break."""
    return Path(shutil.copytree(hub / MODEL, tmp_path / "model"))


@pytest.mark.golden
@pytest.mark.parametrize("name", ["model_feat.onnx", "model_metrics.onnx", "metrics.json"])
def test_missing_file_is_named(broken: Path, name: str):
    (broken / name).unlink()
    with pytest.raises(StageError, match=rf"{name}: no such file.*`make ccip`.*deepghs/ccip_onnx"):
        CcipEncoder(broken)


@pytest.mark.golden
def test_files_are_those_that_the_recipe_names(hub: Path):
    digests = {path.name: sha256_file(path) for path in (hub / MODEL).iterdir()}
    encoder = CcipEncoder(hub / MODEL, digests)
    assert encoder.digests == {name: digests[name] for name in ("model_feat.onnx", "model_metrics.onnx", "metrics.json")}


@pytest.mark.golden
@pytest.mark.parametrize("name", ["model_feat.onnx", "metrics.json", "cluster.json"])
def test_a_file_with_other_bytes_than_the_recipe_names_is_refused(broken: Path, name: str):
    (broken / "cluster.json").write_text("{}")
    found = sha256_file(broken / name)
    with pytest.raises(StageError, match=rf"{name}: has sha256 {found}, but evaluate\.ccip\.sha256 names {'0' * 64}; fetch"):
        CcipEncoder(broken, {name: "0" * 64})


@pytest.mark.golden
def test_a_named_file_that_is_missing_is_refused(broken: Path):
    with pytest.raises(StageError, match=r"cluster\.json: no such file"):
        CcipEncoder(broken, {"cluster.json": "0" * 64})


@pytest.mark.golden
def test_truncated_model_is_named(broken: Path):
    path = broken / "model_feat.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StageError, match=r"model_feat\.onnx: ONNX Runtime cannot load"):
        CcipEncoder(broken)


@pytest.mark.golden
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"threshold": "0.1"}', '{"threshold": 1.5}'])
def test_unusable_threshold_is_refused(broken: Path, text: str):
    (broken / "metrics.json").write_text(text)
    with pytest.raises(StageError, match=r"metrics\.json: expected a JSON object with \"threshold\""):
        CcipEncoder(broken)


@pytest.mark.golden
def test_models_in_each_others_place_are_refused(broken: Path):
    shutil.copy(broken / "model_metrics.onnx", broken / "model_feat.onnx")
    with pytest.raises(StageError, match=r"model_feat\.onnx: the input must be 'input', float32 \[batch, 3, 384, 384\]"):
        CcipEncoder(broken)


@pytest.mark.golden
def test_metrics_model_of_another_formula_is_refused(broken: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(broken / "model_metrics.onnx")
    next(node for node in model.graph.node if node.op_type == "Clip").op_type = "Max"
    onnx.save(model, broken / "model_metrics.onnx")
    with pytest.raises(StageError, match=r"model_metrics\.onnx: its differences are not"):
        CcipEncoder(broken)


@pytest.mark.golden
@pytest.mark.parametrize("shift", ["to all", "above the diagonal"])
def test_metrics_model_that_is_off_by_a_little_is_refused(broken: Path, shift: str):
    """Within the formula's tolerance, but a picture differs from itself, or a pair in its two orders."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(broken / "model_metrics.onnx")
    graph = model.graph
    graph.node[-1].output[0] = "exact"
    amount = np.full((4, 4), 4e-6, dtype=np.float32)
    if shift == "above the diagonal":
        amount = np.triu(amount, 1)
    graph.initializer.append(onnx.numpy_helper.from_array(amount, "shift"))
    graph.node.append(onnx.helper.make_node("Add", ["exact", "shift"], ["output"]))
    onnx.save(model, broken / "model_metrics.onnx")
    with pytest.raises(StageError, match=r"model_metrics\.onnx: a picture differs from itself, or a pair in its two orders"):
        CcipEncoder(broken)


@pytest.mark.golden
def test_features_are_one_pictures_alone(golden: Path, hub: Path, answers: dict):
    """In any order and after any other picture the same bits."""
    images = open_images(golden, answers["files"][:6])
    one, other = CcipEncoder(hub / MODEL), CcipEncoder(hub / MODEL)
    forwards = [one.features(image) for image in images]
    backwards = [other.features(image) for image in images[::-1]][::-1]
    assert (np.stack(forwards) == np.stack(backwards)).all()

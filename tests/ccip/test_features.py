"""Features of many pictures: kept as they come, the same by any number of processes, nothing encoded twice."""

import functools
import inspect
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

from repro.errors import StageError
from repro.hashing import hash_tree
from repro.onnx import open_session

import numpy as np
import pytest
from PIL import Image
from tiny_pictures import MODEL, tiny_picture

from booru.images.archives import ImageArchives
from ccip import features as features_module
from ccip.encoder import CcipEncoder
from ccip.features import CHUNK, ENCODING_CODE, encode_pictures
from ccip.folders import character_pictures
from ccip.score import check_features
from ccip.sources import PictureSource, reference_sources
from generation.picture_folder import open_picture

pytestmark = pytest.mark.golden


def open_tiny(number: int) -> Image.Image:
    return Image.open(BytesIO(tiny_picture("features", number)))


def fail_to_open(number: int) -> Image.Image:
    raise StageError(f"picture {number}: it was opened")


def sources(numbers: range, opened=open_tiny) -> list[PictureSource]:
    return [PictureSource(f"picture {n}", f"{n:064d}", functools.partial(opened, n)) for n in numbers]


COUNT = CHUNK + 3


@pytest.fixture(scope="module")
def encoder(golden: Path) -> Path:
    return golden / MODEL


@pytest.fixture(scope="module")
def alone(encoder: Path) -> np.ndarray:
    """Each picture's features, encoded by itself."""
    opened = CcipEncoder(encoder)
    return np.stack([opened.features(open_tiny(n)) for n in range(COUNT)])


@pytest.mark.parametrize("processes", [1, 2])
def test_features_are_those_of_each_picture_alone(encoder, alone, tmp_path, processes):
    found = encode_pictures(encoder, sources(range(COUNT)), processes, "pictures", tmp_path)
    assert found.dtype == np.float32
    assert (found == alone).all()


def test_order_is_the_sources(encoder, alone, tmp_path):
    found = encode_pictures(encoder, sources(range(COUNT))[::-1], 1, "pictures", tmp_path)
    assert (found == alone[::-1]).all()


def test_kept_pictures_are_not_opened_again(encoder, alone, tmp_path):
    encode_pictures(encoder, sources(range(CHUNK)), 1, "pictures", tmp_path)
    kept = hash_tree(tmp_path)
    more = [*sources(range(CHUNK), fail_to_open), *sources(range(CHUNK, COUNT))]
    assert (encode_pictures(encoder, more, 1, "pictures", tmp_path) == alone).all()
    assert kept.items() <= hash_tree(tmp_path).items()


def test_the_same_pictures_twice_are_encoded_once(encoder, alone, tmp_path):
    found = encode_pictures(encoder, sources(range(CHUNK)) * 2, 2, "pictures", tmp_path)
    assert (found[:CHUNK] == alone[:CHUNK]).all()
    assert (found[CHUNK:] == alone[:CHUNK]).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_features_of_another_encoder_are_not_taken(encoder, golden, tmp_path):
    kept = encode_pictures(encoder, sources(range(2)), 1, "pictures", tmp_path / "kept")
    onnx = pytest.importorskip("onnx")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("metrics.json", "model_metrics.onnx", "model_feat.onnx"):
        (other / name).write_bytes((encoder / name).read_bytes())
    model = onnx.load(other / "model_feat.onnx")
    weights = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = (np.frombuffer(weights.raw_data, dtype=np.float32) * np.float32(0.5)).tobytes()
    onnx.save(model, other / "model_feat.onnx")
    found = encode_pictures(other, sources(range(2)), 1, "pictures", tmp_path / "kept")
    assert (found != kept).any()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_picture_that_cannot_be_opened_stops_with_its_name(encoder, tmp_path, processes):
    broken = [*sources(range(CHUNK)), *sources(range(CHUNK, COUNT), fail_to_open)]
    with pytest.raises(StageError, match=f"picture {CHUNK}: it was opened"):
        encode_pictures(encoder, broken, processes, "pictures", tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".npy"]


@pytest.mark.parametrize(
    "step",
    [
        reference_sources,
        character_pictures,
        open_picture,
        ImageArchives.read,
        CcipEncoder,
        open_session,
        encode_pictures,
        check_features,
    ],
)
def test_the_code_of_each_step_from_file_to_features_is_named(step):
    stages = Path(features_module.__file__).parents[1]
    file = Path(inspect.getfile(step)).relative_to(stages)
    assert any(file.is_relative_to(part) for part in ENCODING_CODE)
    assert all((stages / part).exists() for part in ENCODING_CODE)


def test_no_pictures_have_no_features(encoder, tmp_path):
    assert encode_pictures(encoder, [], 2, "pictures", tmp_path).shape == (0, 768)


# A program whose pictures take their time, in pieces of 4.
PIECE, PIECES = 4, 8
PROGRAM = """
import functools, sys, time
from pathlib import Path
import repro
from PIL import Image
from ccip import features
from ccip.sources import PictureSource

def opened(file):
    time.sleep(0.02)
    return Image.open(file)

if __name__ == "__main__":
    encoder, pictures, kept = map(Path, sys.argv[1:])
    sources = [PictureSource(f.name, f.stem, functools.partial(opened, f)) for f in sorted(pictures.iterdir())]
    features.CHUNK = 4
    features.encode_pictures(encoder, sources, 2, "pictures", kept)
"""


def test_a_killed_run_goes_on_where_it_was(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", PIECE)
    pictures, kept = tmp_path / "pictures", tmp_path / "kept"
    pictures.mkdir()
    kept.mkdir()
    wanted = sources(range(PIECE * PIECES))
    for n, source in enumerate(wanted):
        (pictures / f"{source.sha256}.png").write_bytes(tiny_picture("features", n))
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(encoder), str(pictures), str(kept)],
        env=os.environ | {"PYTHONPATH": str(Path(features_module.__file__).parents[1])}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not list(kept.glob("*.npy")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {file.name: file.stat().st_mtime_ns for file in kept.glob("*.npy")}
    assert 1 <= len(before) < PIECES
    found = encode_pictures(encoder, wanted, 1, "pictures", kept)
    after = {file.name: file.stat().st_mtime_ns for file in kept.iterdir()}
    assert before.items() <= after.items(), "what was kept is not written again"
    assert len(after) == PIECES
    assert (found == encode_pictures(encoder, wanted, 1, "pictures", tmp_path / "fresh")).all()

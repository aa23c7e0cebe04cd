"""The tagger's interface against the reference's probabilities, and its errors."""

import csv
import json
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file
from repro.params import Tagger

import numpy as np
import onnx
import polars as pl
import pytest
from PIL import Image
from tiny_taggers import CHARACTERS, GENERAL, RATINGS, write_wd_tagger

from tagging import wd_tagger
from tagging.wd_tagger import WdModel, WdTagger, read_vocabulary, tag_row

# The difference between two CPUs' ONNX Runtimes is near 1e-6.
NOISE = 1e-5


def settings(**changes) -> Tagger:
    return Tagger(**{"path": "wd", "hub": None, "sha256": {}, "preprocess": "kohya-2024-04", "floor": 0.1} | changes)


def pictures(count: int) -> list[Image.Image]:
    draws = np.random.default_rng(7)
    return [Image.fromarray(draws.integers(0, 256, (40 + 3 * i, 50, 3), dtype=np.uint8)) for i in range(count)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_wd_tagger(tmp_path / "wd")
    return tmp_path


@pytest.fixture(scope="module")
def reference(golden: Path) -> Path:
    (folder,) = (golden / "evaluate/tagger/model_dir").iterdir()
    return folder


@pytest.mark.golden
@pytest.mark.parametrize(("revision", "name"), [("kohya-2024-04", "2024"), ("kohya-2025-02", "2025"), ("kohya-2026-01", "head")])
def test_the_reference_probabilities(golden: Path, reference: Path, revision: str, name: str):
    folder = golden / "evaluate/tagger/set"
    files = json.loads((folder / "preprocess.json").read_text())["files"]
    found = WdModel(reference, revision).probabilities([Image.open(folder / "images" / file) for file in files])
    expected = np.load(folder / "probs.npz")[name]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < NOISE


@pytest.mark.golden
def test_the_reference_vocabulary(reference: Path):
    vocabulary = read_vocabulary(reference / "selected_tags.csv")
    assert [len(vocabulary.of(category)) for category in wd_tagger.BLOCKS] == [4, 36, 20]
    assert {'"quote"_mark', "comma,_tag", "||_||", "a.b_(c_(d))"} <= set(vocabulary.names)


def test_a_row_says_what_has_the_floor(models: Path):
    tagger = WdTagger(models, settings(floor=0.3))
    probabilities = WdModel(models / "wd", "kohya-2024-04").probabilities(pictures(3))
    rows = tagger.describe(pictures(3))
    for own, (ratings, places, kept) in zip(probabilities, rows, strict=True):
        assert ratings == own[:4].tolist()
        assert places == [place for place in range(4, len(own)) if own[place] >= 0.3]
        assert kept == [float(own[place]) for place in places]
    assert any(places for _, places, _ in rows)
    frame = pl.DataFrame(rows, schema=tagger.schema, orient="row")
    assert frame["probabilities"].explode().max() <= 1


def test_the_floor_itself_is_kept():
    probabilities = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.49999997, 0.50000006], dtype=np.float32)
    assert tag_row(probabilities, 0.5)[1] == [4, 6]
    assert tag_row(probabilities, 0)[1] == [4, 5, 6]


def test_a_row_does_not_depend_on_its_neighbours(models: Path):
    tagger, some = WdTagger(models, settings()), pictures(4)
    assert tagger.describe(some)[::-1] == tagger.describe(some[::-1])
    assert tagger.describe([some[1]] * 4)[2] == tagger.describe(some)[1]


def test_vocabulary_and_digests(models: Path):
    tagger = WdTagger(models, settings())
    assert tagger.vocabulary.names == (*RATINGS, *GENERAL, *CHARACTERS)
    assert tagger.vocabulary.of(wd_tagger.CHARACTER) == CHARACTERS
    assert tagger.digests == {name: sha256_file(models / "wd" / name) for name in ("model.onnx", "selected_tags.csv")}


def change_model(folder: Path, change) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model.graph)
    onnx.save(model, folder / "model.onnx")


def test_a_fixed_batch_gives_the_same_rows(models: Path):
    free = WdTagger(models, settings()).describe(pictures(5))

    def fix(graph) -> None:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 2

    change_model(models / "wd", fix)
    found = WdTagger(models, settings()).describe(pictures(5))
    assert [places for _, places, _ in found] == [places for _, places, _ in free]
    for (ratings, _, kept), (other_ratings, _, others) in zip(found, free, strict=True):
        assert np.allclose(ratings, other_ratings, atol=NOISE)
        assert np.allclose(kept, others, atol=NOISE)
    assert len(found) == 5


def logits_for_answers(graph) -> None:
    """Leave out the sigmoid."""
    (last,) = [node for node in graph.node if node.op_type == "Sigmoid"]
    graph.node.remove(last)
    next(node for node in graph.node if "logits" in node.output).output[0] = "output"


def test_answers_that_are_no_probabilities_are_refused(models: Path):
    change_model(models / "wd", logits_for_answers)
    with pytest.raises(StageError, match=r"model\.onnx: its answers are not numbers from 0 to 1.*sigmoid"):
        WdTagger(models, settings()).describe(pictures(3))


def test_a_model_of_pictures_with_alpha_is_refused(models: Path):
    tags = len(RATINGS + GENERAL + CHARACTERS)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3], keepdims=0),
         onnx.helper.make_node("Mul", ["mean", "weight"], ["output"])],
        "alpha",
        [value("input", onnx.TensorProto.FLOAT, ["batch", 8, 8, 4])],
        [value("output", onnx.TensorProto.FLOAT, ["batch", tags])],
        [onnx.helper.make_tensor("weight", onnx.TensorProto.FLOAT, [1, tags], [0.0] * tags)],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    onnx.save(model, models / "wd" / "model.onnx")
    with pytest.raises(StageError, match=r"the input must be one float32 .*\[.batch., 8, 8, 4\]"):
        WdTagger(models, settings())


def test_a_model_of_pictures_with_channels_first_is_refused(models: Path):
    def change(graph) -> None:
        shape = graph.input[0].type.tensor_type.shape
        shape.dim[1].dim_value, shape.dim[3].dim_value = 3, shape.dim[1].dim_value
        next(node for node in graph.node if node.op_type == "Transpose").attribute[0].ints[:] = [0, 1, 2, 3]

    change_model(models / "wd", change)
    with pytest.raises(StageError, match=r"the input must be one float32 \[batch, side, side, 3\]"):
        WdTagger(models, settings())


def rewrite_tags(folder: Path, change) -> None:
    with open(folder / "selected_tags.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with open(folder / "selected_tags.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), r"first output must be float32 \[batch, 13\].*both files of one model"),
        (lambda rows: rows[0].__setitem__(1, "tag"), "expected a table with the columns tag_id, name, category"),
        (lambda rows: rows[3].__setitem__(2, "many"), "expected a table with the columns"),
        (lambda rows: rows.append(["1"]), "expected a table with the columns"),
        (lambda rows: rows[5].__setitem__(2, "3"), "tag '1girl' has category 3; known: 9 rating, 0 general, 4 character"),
        (lambda rows: rows.append(rows.pop(5)), "tag '1girl' is out of order; expected the ratings"),
        (lambda rows: rows.pop(1), "expected 4 ratings .category 9., found 3"),
        (lambda rows: rows.clear(), "expected a table with the columns"),
    ],
)
def test_another_list_of_tags_is_refused(models: Path, change, message: str):
    rewrite_tags(models / "wd", change)
    with pytest.raises(StageError, match=message):
        WdTagger(models, settings())


@pytest.mark.parametrize("name", ["model.onnx", "selected_tags.csv"])
def test_a_missing_file_is_named(models: Path, name: str):
    (models / "wd" / name).unlink()
    hub = {"repo": "SmilingWolf/wd-swinv2-tagger-v3", "revision": "a" * 40, "path": ""}
    with pytest.raises(StageError, match=rf"wd/{name}: no such file.*SmilingWolf/wd-swinv2-tagger-v3"):
        WdTagger(models, settings(hub=hub))


def test_another_sha256_is_refused(models: Path):
    with pytest.raises(StageError, match=r"model\.onnx: has sha256 .*annotate\.tags\.sha256"):
        WdTagger(models, settings(sha256={"model.onnx": "0" * 64}))

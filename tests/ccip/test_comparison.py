"""Two earlier results compared: what is paired, what is refused."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file
from repro.outputs import json_text

import pytest

from ccip.comparison import compare, comparison_content, comparison_csv, read_result

RECORD = {
    "encoder": {"model_feat.onnx": "e" * 64, "metrics.json": "m" * 64}, "threshold": 0.2, "requests": "q" * 64,
    "models": ["base", "merged"], "headline": "name",
}  # fmt: skip


RECORDED = {"ccip_json": "ccip.json", "characters_csv": "ccip_characters.csv"}


def write_result(folder: Path, scores: dict[str, tuple[int, int]], **changes) -> Path:
    """A result with 3 references and 2 pictures a character: `scores` are counts of its 6 pairs by base and merged; the
    references' digests are the characters' names."""
    folder.mkdir()
    lines = ["character,model,mode,references,pictures,score"]
    for name, counts in scores.items():
        for model, count in zip(("base", "merged"), counts, strict=True):
            lines += [f'"{name}",{model},name,3,2,{round(count / 6, 6)}', f'"{name}",{model},core_tags,3,2,1.0']
    (folder / "ccip_characters.csv").write_text("\n".join(lines) + "\n")
    (folder / "ccip.json").write_text("{}\n")
    digests = {key: sha256_file(folder / name) for key, name in RECORDED.items()}
    record = RECORD | {"references": {name: name for name in scores}} | digests | changes
    (folder / "ccip_run.json").write_text(json_text(record))
    return folder / "ccip.json"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write_result(tmp_path / "before", {"aoi": (0, 1), "mika": (2, 2), "only, old": (6, 6)})


@pytest.fixture
def after(tmp_path: Path) -> Path:
    return write_result(tmp_path / "after", {"aoi": (6, 5), "mika": (6, 2), "new": (6, 6)})


def compared(before: Path, after: Path, before_model: str | None = None, after_model: str | None = None):
    return compare(read_result(before, before_model), read_result(after, after_model), 20, 1)


def test_the_last_models_are_compared_over_characters_of_both(before, after):
    comparison = compared(before, after)
    assert comparison.rows == (("aoi", 1 / 6, 5 / 6), ("mika", 2 / 6, 2 / 6)), "the table's rounding is undone"
    assert (comparison.only_before, comparison.only_after) == (("only, old",), ("new",))
    content = comparison_content(comparison)
    assert content["before"] == {"model": "merged", "mode": "name", "score": 0.25}
    assert content["difference"]["mean"] == 0.333333
    assert (content["difference"]["wins"], content["difference"]["ties"]) == (1, 1)
    assert (content["same_requests"], content["threshold"], content["characters"]) == (True, 0.2, 2)
    assert comparison_csv(comparison) == (
        "character,before,after,change\naoi,0.166667,0.833333,0.666667\nmika,0.333333,0.333333,0.0\n"
    )
    assert json.loads(json_text(content)) == content


def test_models_can_be_chosen(before, after):
    assert compared(before, after, "base", "base").rows == (("aoi", 0.0, 1.0), ("mika", 2 / 6, 1.0))
    assert compared(before, before, "base", "merged").rows[0] == ("aoi", 0.0, 1 / 6)
    with pytest.raises(StageError, match=r"before/ccip\.json: no model 'new' in it; it has base, merged"):
        compared(before, after, "new")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": {"model_feat.onnx": "f" * 64}}, "differ in the encoder"),
        ({"threshold": 0.3}, r"differ in the threshold \(0\.2, 0\.3\)"),
        ({"headline": "given"}, r"differ in the mode of their scores \(name, given\)"),
    ],
)
def test_other_measures_are_refused(before, tmp_path, changes, words):
    other = write_result(tmp_path / "other", {"aoi": (1, 1)}, **changes)
    with pytest.raises(StageError, match=words):
        compared(before, other)


@pytest.mark.parametrize(("requests", "same"), [("q" * 64, True), ("p" * 64, False), (None, None)])
def test_other_requests_are_told(before, tmp_path, requests, same):
    assert compared(before, write_result(tmp_path / "other", {"aoi": (1, 1)}, requests=requests)).same_requests is same


def test_characters_by_other_reference_pictures_are_left_out_and_listed(before, tmp_path):
    own = {"aoi": "aoi", "mika": "others", "only, old": "others"}
    other = write_result(tmp_path / "other", dict.fromkeys(own, (6, 5)), references=own)
    comparison = compared(before, other)
    assert [row[0] for row in comparison.rows] == ["aoi"]
    assert (comparison.only_before, comparison.only_after) == ((), ())
    content = comparison_content(comparison)
    assert (content["characters"], content["other_references"]) == (1, ["mika", "only, old"])
    assert content["difference"]["mean"] == 0.666667


def test_nobody_by_the_same_reference_pictures_is_refused(before, tmp_path):
    other = write_result(tmp_path / "other", {"aoi": (1, 1), "mika": (1, 1)}, references={"aoi": "mika", "mika": "aoi"})
    with pytest.raises(StageError, match="the reference pictures of all 2 characters of both differ"):
        compared(before, other)


def test_a_record_without_a_characters_references_is_refused(tmp_path):
    path = write_result(tmp_path / "odd", {"aoi": (1, 1), "mika": (1, 1)}, references={"aoi": "aoi"})
    with pytest.raises(StageError, match=r"ccip_run\.json: no references of 'mika'"):
        read_result(path, None)


def test_nobody_in_common_is_refused(before, tmp_path):
    with pytest.raises(StageError, match="no character is in both"):
        compared(before, write_result(tmp_path / "other", {"rin": (1, 1)}))


@pytest.mark.parametrize("name", ["ccip.json", "ccip_run.json", "ccip_characters.csv"])
def test_a_missing_file_is_named(before, name):
    (before.parent / name).unlink()
    with pytest.raises(StageError, match=rf"{name}: no such file"):
        read_result(before, None)


def test_a_table_of_another_run_is_refused(before):
    table = before.parent / "ccip_characters.csv"
    table.write_text(table.read_text().replace("0.166667", "0.966667"))
    with pytest.raises(StageError, match=r"ccip_characters\.csv: not the file that ccip_run\.json names"):
        read_result(before, None)


def test_figures_of_another_run_are_refused(before):
    before.write_text('{"characters": 3}\n')
    with pytest.raises(StageError, match=r"before/ccip\.json: not the file that ccip_run\.json names; take all files"):
        read_result(before, None)


@pytest.mark.parametrize(("text", "words"), [("{", "Invalid JSON"), ('{"threshold": 0.2}', "encoder: Field required")])
def test_a_broken_record_is_named(before, text, words):
    (before.parent / "ccip_run.json").write_text(text)
    with pytest.raises(StageError, match=rf"ccip_run\.json: .*{words}"):
        read_result(before, None)

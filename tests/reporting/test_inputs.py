import json

from repro.errors import StageError

import pytest
from small_reports import THRESHOLD, write_evaluation, write_reports

from reporting.inputs import Paths, read_character_rows, read_history, read_inputs


def paths(folder) -> Paths:
    return Paths(
        funnel=folder / "filter.json", artists=folder / "artists.json", characters=folder / "characters.json",
        latents=folder / "latents", history=folder / "train.csv", train_metrics=folder / "train.json",
        merge=folder / "merge.json", ccip=folder / "ccip.json", ccip_characters=folder / "ccip_characters.csv",
        ccip_plots=folder / "ccip", pictures=folder / "pictures", hashed=(),
    )  # fmt: skip


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_everything_is_read(tmp_path):
    inputs = read_inputs(paths(write_reports(tmp_path)))
    assert inputs.funnel.kept == 904
    assert [(b.width, b.height, b.images) for b in inputs.latents.buckets] == [(48, 80, 62), (64, 64, 800), (80, 48, 40)]
    assert inputs.latents.lost == {"unreadable": 2}
    assert inputs.evaluation.threshold == THRESHOLD
    assert [r.name for r in inputs.rows][:2] == ["eileen_(ren'py)", "lucy_(ren'py)"]
    assert inputs.rows[1].pictures == 67 and inputs.rows[1].held_out == 0.5 and inputs.rows[0].held_out is None
    assert set(inputs.sheets) == {r.name for r in inputs.rows}
    assert inputs.example_prompt == "1girl, eileen (ren'py), ren'py_tutorial, solo, safe"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("ccip.json", lambda c: c.pop("threshold"), ["ccip.json", "threshold", "evaluate-CCIP"]),
        ("ccip.json", lambda c: c["models"].pop("base"), ["models.base"]),
        ("ccip.json", lambda c: c["difference"].update(ci95=[0.1]), ["difference.ci95"]),
        ("filter.json", lambda c: c.update(kept="many"), ["filter.json", "kept"]),
        ("characters.json", lambda c: c.update(mika=1.5), ["characters.json", "mika", "caption"]),
        ("merge.json", lambda c: c["single_file"].pop("sha256"), ["merge.json", "single_file.sha256"]),
    ],
)
def test_a_wrong_key_is_named_in_one_line(tmp_path, name, change, words):
    edit(write_reports(tmp_path) / name, change)
    with pytest.raises(StageError) as error:
        read_inputs(paths(tmp_path))
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["filter.json", "train.csv", "ccip_characters.csv"])
def test_binary_rubbish_is_no_report(tmp_path, name):
    (write_reports(tmp_path) / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StageError, match="not UTF-8"):
        read_inputs(paths(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'update'"),
        ("update,loss,lr,te_lr\n1,2,3,4\n", "grad_norm"),
        ("update,loss,lr,te_lr,grad_norm\n1,x,1,1,1\n", "x"),
    ],
)
def test_a_broken_history_is_refused(tmp_path, text, words):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(StageError, match=words):
        read_history(tmp_path / "train.csv")


def test_a_character_needs_both_models(tmp_path):
    write_evaluation(tmp_path)
    path = tmp_path / "ccip_characters.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "mika,adventurer,1girl,base" not in line))
    with pytest.raises(StageError, match="'mika' needs a row for base"):
        read_character_rows(path, {})


def test_sheet_names_are_read_back(tmp_path):
    folder = write_reports(tmp_path)
    (folder / "pictures" / "mika.png").rename(folder / "pictures" / "fate%2Fmika.png")
    assert "fate/mika" in read_inputs(paths(folder)).sheets

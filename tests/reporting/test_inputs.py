import json
from dataclasses import fields

from repro.errors import StageError
from repro.hashing import sha256_file

import pytest
from small_reports import PLACES, THRESHOLD, report_paths, write_reports

import train
from reporting.inputs import Paths, read_asked, read_character_rows, read_history, read_inputs
from training.resume import Row


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_everything_is_read(tmp_path):
    inputs = read_inputs(report_paths(write_reports(tmp_path)))
    assert inputs.funnel.kept == 904 and inputs.captions.posts == 904 and inputs.selection.metadata == 1085
    assert [(b.width, b.height, b.images) for b in inputs.latents.buckets] == [(48, 80, 62), (64, 64, 800), (80, 48, 40)]
    assert inputs.latents.lost == {"unreadable": 2}
    assert inputs.evaluation.threshold == THRESHOLD
    assert [row.name for row in inputs.rows][:2] == ["eileen_(ren'py)", "lucy_(ren'py)"]
    first, second = inputs.rows[:2]
    assert second.pictures == 67 and second.gender == "1girl" and second.core_tags == ("blue_hair", "red_eyes")
    assert ("merged", "new_artist") in second.scores and ("merged", "new_artist") not in first.scores
    assert inputs.change(first) == 1.0 and (inputs.before, inputs.after) == ("base", "merged")
    assert set(inputs.sheets) == {row.name for row in inputs.rows}
    assert list(inputs.grids) == ["grid.png", "best.png", "worst.png", "changed.png"]
    assert inputs.trained.bytes == 7000 and list(inputs.checkpoints) == ["update-00000060.safetensors"]
    assert inputs.asked == 2 * (4 * 2 + 4 * 3)


def test_examples_show_each_mode_and_template_the_headline_first(tmp_path):
    examples = read_inputs(report_paths(write_reports(tmp_path))).examples
    assert [(e.mode, e.template) for e in examples] == [
        ("name", "plain"), ("name", "smile"), ("core_tags", "plain"), ("core_tags", "smile"), ("new_artist", "plain"),
        ("new_artist", "smile"),
    ]  # fmt: skip
    assert examples[0].prompt == "1girl, eileen (ren'py), ren'py_tutorial, plain pose, safe"


def test_every_hash_is_that_of_the_file(tmp_path):
    inputs = read_inputs(report_paths(write_reports(tmp_path)))
    assert {file.path.name for file in inputs.hashed} >= {"sample.safetensors", "lokr.safetensors", "ccip.json", "pictures.csv"}
    assert all(file.sha256 == sha256_file(file.path) for file in inputs.hashed)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("ccip.json", lambda c: c.pop("threshold"), ["ccip.json", "threshold", "evaluate-CCIP"]),
        ("ccip.json", lambda c: c["models"].pop("base"), ["ccip.json", "other models"]),
        ("ccip.json", lambda c: c["models"]["base"].pop("rank"), ["models.base.rank"]),
        ("ccip.json", lambda c: c["difference"].update(ci95=[0.1]), ["difference.ci95"]),
        ("ccip.json", lambda c: c.update(difference=None), ["ccip.json", "difference"]),
        ("ccip_run.json", lambda c: c.update(models=["merged"]), ["ccip_run.json", "models"]),
        ("ccip_run.json", lambda c: c.update(characters_csv="0" * 64), ["ccip_characters.csv", "not the file that"]),
        ("ccip_run.json", lambda c: c.pop("ccip_json"), ["ccip_run.json", "ccip_json"]),
        ("ccip.json", lambda c: c.update(pairs=7), ["ccip.json: not the file that ccip_run.json names", "evaluate-CCIP"]),
        ("ccip.json", lambda c: c["references"].pop("trained"), ["references.trained"]),
        ("filter.json", lambda c: c.update(kept="many"), ["filter.json", "kept"]),
        ("select.json", lambda c: c["ranges"][1].pop("taken"), ["select.json", "ranges.1.taken"]),
        ("characters.json", lambda c: c.update(mika=1.5), ["characters.json", "mika", "caption"]),
        ("references.json", lambda c: c["characters"]["mika"].pop("core_tags"), ["references.json", "mika"]),
        ("merge.json", lambda c: c["single_file"].pop("sha256"), ["merge.json", "single_file.sha256"]),
        ("merge.json", lambda c: c["single_file"].update(bytes=1), ["sample.safetensors", "merge.json"]),
        ("merge.json", lambda c: c["inputs"]["sha256"].update(trained="0" * 64), ["lokr.safetensors", "merge stage"]),
    ],
)
def test_a_wrong_key_is_named_in_one_line(tmp_path, name, change, words):
    edit(write_reports(tmp_path) / name, change)
    with pytest.raises(StageError) as error:
        read_inputs(report_paths(tmp_path))
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["filter.json", "train.csv", "ccip_characters.csv", "pictures.csv"])
def test_binary_rubbish_is_no_report(tmp_path, name):
    (write_reports(tmp_path) / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StageError, match="not UTF-8"):
        read_inputs(report_paths(tmp_path))


@pytest.mark.parametrize("field", [field.name for field in fields(Paths)])
def test_each_missing_input_is_named_with_what_writes_it(tmp_path, field):
    places = {name: tmp_path / place for name, place in PLACES.items()}
    write_reports(tmp_path)
    with pytest.raises(StageError, match=r"nowhere.*(stage|expected)"):
        read_inputs(Paths(**(places | {field: tmp_path / "nowhere"})))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column 'update'"),
        ("update,loss,lr\n1,2,3\n", "te_lr"),
        ("update,loss,lr,te_lr,grad_norm\n1,x,1,1,1\n", "x"),
    ],
)
def test_a_broken_history_is_refused(tmp_path, text, words):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(StageError, match=words):
        read_history(tmp_path / "train.csv")


def test_an_update_that_fp16_skipped_is_a_row_as_the_trainer_writes_it(tmp_path):
    rows = [Row(0, 0.5, 0.0, 0.0, None), Row(1, 0.25, 1e-5, 1e-6, 2.5)]
    (tmp_path / "train.csv").write_text("\n".join([train.HISTORY_HEADER, *map(train.history_line, rows)]) + "\n")
    assert [(row.update, row.loss) for row in read_history(tmp_path / "train.csv")] == [(0, 0.5), (1, 0.25)]


def test_a_character_needs_all_models_in_the_headline_mode(tmp_path):
    write_reports(tmp_path)
    path = tmp_path / "ccip_characters.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "mika" not in line or "base,name" not in line))
    with pytest.raises(StageError, match="'mika' needs a row of base in mode name"):
        read_character_rows(path, ["base", "merged"], "name", {})


def test_a_figure_that_is_no_number_names_the_character(tmp_path):
    write_reports(tmp_path)
    path = tmp_path / "ccip_characters.csv"
    path.write_text(path.read_text().replace("mika,adventurer,1girl,61", "mika,adventurer,1girl,many"))
    with pytest.raises(StageError, match=r"mika: .*many"):
        read_character_rows(path, ["base", "merged"], "name", {})


def test_characters_of_the_same_score_stand_by_name(tmp_path):
    write_reports(tmp_path)
    path = tmp_path / "ccip_characters.csv"
    header, *lines = path.read_text().splitlines()
    same = [line for line in lines if line.startswith("rin,")]
    doubled = [line.replace("rin,", f"{name},", 1) for name in ("b", "c", "a") for line in same]
    path.write_text("\n".join([header, *doubled]) + "\n")
    assert [row.name for row in read_character_rows(path, ["base", "merged"], "name", {})] == ["a", "b", "c"]


def test_pictures_of_another_evaluation_are_refused(tmp_path):
    write_reports(tmp_path)
    with pytest.raises(StageError, match="no picture of 'delta'"):
        read_asked(tmp_path / "pictures.csv", "delta", "name", "mika")


def test_sheet_names_are_read_back(tmp_path):
    sheets = write_reports(tmp_path) / "pictures" / "sheets"
    (sheets / "mika.png").rename(sheets / "fate%2Fmika.png")
    assert "fate/mika" in read_inputs(report_paths(tmp_path)).sheets


def test_a_training_without_pictures_has_no_sheet(tmp_path):
    (write_reports(tmp_path) / "training_pictures" / "sheet.png").unlink()
    assert read_inputs(report_paths(tmp_path)).training_sheet is None

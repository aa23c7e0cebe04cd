import base64
import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote

from repro.hashing import sha256_file

import pytest
from huggingface_hub import ModelCard
from small_reports import (
    CHARACTERS,
    THRESHOLD,
    report_arguments,
    seal_evaluation,
    write_character_scores,
    write_references,
    write_reports,
)

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "stages" / "write_report.py"


def run(folder: Path, *more: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCRIPT, *report_arguments(folder), *more],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = write_reports(tmp_path_factory.mktemp("reports"))
    result = run(folder)
    assert result.returncode == 0, result.stderr
    return folder


def outputs(folder: Path) -> tuple[str, str]:
    return (folder / "MODEL_CARD.md").read_text(), (folder / "index.html").read_text()


class Links(HTMLParser):
    """Collects what a browser would load, and all text."""

    def __init__(self):
        super().__init__()
        self.loaded, self.text, self.tags, self.images_without_alt = [], [], [], 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.loaded += [value for name, value in attributes if name in ("src", "href", "srcset", "xlink:href", "data", "action")]
        self.images_without_alt += tag == "img" and not values.get("alt")

    def handle_data(self, data):
        self.text.append(data)


def parsed(page: str) -> Links:
    links = Links()
    links.feed(page)
    return links


def without_code(card: str) -> str:
    """The card's text outside front matter, fenced blocks and code spans."""
    _, _, body = card.split("---\n", 2)
    body = re.sub(r"^(`{3,}).*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`+)[^`].*?\1", "", body)


def test_same_bytes_in_another_folder_and_environment(tmp_path):
    first, second = write_reports(tmp_path / "a"), write_reports(tmp_path / "another folder")
    assert run(first, PYTHONHASHSEED="1", TZ="UTC").returncode == 0
    assert run(second, "--set", "runtime.processes=7", PYTHONHASHSEED="2", TZ="Asia/Tokyo", LANG="de_DE.UTF-8").returncode == 0
    assert outputs(first) == outputs(second)


def test_the_page_loads_nothing_from_elsewhere(made):
    page = outputs(made)[1]
    links = parsed(page)
    assert all(link.startswith(("data:image/", "#")) for link in links.loaded)
    assert "@import" not in page and not re.search(r"url\s*\(", page)
    assert "default-src 'none'" in page
    assert not {"iframe", "object", "embed", "link"} & set(links.tags)


def test_every_picture_is_inside_and_has_words(made):
    page = outputs(made)[1]
    pictures = [*made.glob("pictures/**/*.png"), made / "training_pictures" / "sheet.png"]
    plots = [made / "ccip" / name for name in ("rank.svg", "scatter.png", "own.png")]
    for path in [*pictures, *plots]:
        assert base64.b64encode(path.read_bytes()).decode() in page
    assert parsed(page).images_without_alt == 0


def test_fragments_lead_somewhere(made):
    page = outputs(made)[1]
    for link in parsed(page).loaded:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page


def test_card_and_page_repeat_the_inputs_figures(made):
    card, page = outputs(made)
    evaluation = json.loads((made / "ccip.json").read_text())
    text = "".join(parsed(page).text)
    for models in (evaluation["models"], *(mode["models"] for mode in evaluation["modes"].values())):
        for document in (card, text):
            assert f"{models['base']['score']:.3f}" in document and f"{models['merged']['score']:.3f}" in document
    assert f"{evaluation['difference']['mean']:+.3f}" in card and f"{evaluation['difference']['mean']:+.3f}" in text
    assert r"\[0.442, 0.789\]" in card and "[0.442, 0.789]" in text
    for document in (card, text):
        assert str(THRESHOLD) in document
        assert sha256_file(made / "sample.safetensors") in document and "d" * 64 in document
    funnel = json.loads((made / "filter.json").read_text())
    for step in funnel["steps"]:
        assert f"| {step['reason']} | {step['dropped']} | {step['left']} |" in card
        assert step["reason"] in text


def test_card_lists_every_character(made):
    card = outputs(made)[0]
    with open(made / "ccip_characters.csv", newline="") as file:
        rows = {(row["character"], row["model"], row["mode"]): float(row["score"]) for row in csv.DictReader(file)}
    for name in {name for name, _, _ in rows}:
        base, merged = rows[name, "base", "name"], rows[name, "merged", "name"]
        new_artist = rows.get((name, "merged", "new_artist"))
        line = next(line for line in card.splitlines() if line.startswith(f"| {name.replace('_', ' ')} |"))
        others = f"{rows[name, 'merged', 'core_tags']:.3f} | {'–' if new_artist is None else f'{new_artist:.3f}'} |"
        assert line.endswith(f"| {base:.3f} | {merged:.3f} | {merged - base:+.3f} | {others}")


def test_the_hub_reads_the_front_matter(made):
    card = ModelCard(outputs(made)[0])
    data = card.data
    assert (data.license, data.pipeline_tag, data.library_name) == ("cc-by-4.0", "text-to-image", "diffusers")
    assert data.base_model is None and {"stable-diffusion-xl", "lokr"} <= set(data.tags)
    evaluation = json.loads((made / "ccip.json").read_text())
    wanted = [evaluation["models"], *(evaluation["modes"][mode]["models"] for mode in ("core_tags", "new_artist"))]
    assert [result.metric_value for result in data.eval_results] == [models["merged"]["score"] for models in wanted]
    assert {(result.metric_type, result.task_type) for result in data.eval_results} == {("ccip-score", "text-to-image")}


def test_every_link_of_the_card_leads_to_a_file(made):
    body = without_code(outputs(made)[0])
    targets = [unquote(target) for target in re.findall(r"(?<!\\)\]\(([^)]+)\)", body)]
    assert {"pictures/grid.png", "ccip/rank.png", "ccip/rank.svg", "ccip/scatter.png", "lokr.safetensors"} <= set(targets)
    assert all((made / target).is_file() for target in targets)


def test_the_cards_command_finds_every_file_whole_and_a_changed_one(tmp_path):
    folder = write_reports(tmp_path)
    assert run(folder).returncode == 0
    command = re.search(r"^```sh\n(.*?)^```$", outputs(folder)[0], re.DOTALL | re.MULTILINE)[1]
    checked = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True)
    assert checked.returncode == 0 and checked.stdout.count(": OK") == 16
    (folder / "lokr.safetensors").write_bytes(b"another")
    assert "lokr.safetensors: FAILED" in subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True).stdout


def test_training_settings_come_from_the_parameters(tmp_path):
    folder = write_reports(tmp_path)
    assert run(folder, "--set", "lr=2e-5", "--set", "train.tag_dropout=0.25", "--set", "recipe=other").returncode == 0
    card, page = outputs(folder)
    assert "Learning rate: 2e-5 for the UNet" in card and "25 % of the second line's tags" in card
    assert "2e-5" in page and "recipe other" in page
    assert "text encoders not frozen" in card
    assert "make cost" in card


def test_a_cost_that_was_written_down_is_told(tmp_path):
    folder = write_reports(tmp_path)
    assert run(folder, "--set", "report.cost=2 x RTX 3090, 17 days").returncode == 0
    card, page = outputs(folder)
    assert "1,920 images seen; 2 x RTX 3090, 17 days." in card and "make cost" not in card
    assert "2 x RTX 3090, 17 days" in page


def test_a_model_without_pictures_of_its_training_has_a_report(tmp_path):
    folder = write_reports(tmp_path)
    (folder / "training_pictures" / "sheet.png").unlink()
    (folder / "checkpoints" / "MANIFEST.json").write_text('{"files": {}}')
    assert run(folder).returncode == 0
    card, page = outputs(folder)
    assert "None were kept." in card and "What the model drew" not in page


def test_many_skipped_are_counted_on_the_card_and_all_stand_on_the_page(tmp_path):
    folder = write_reports(tmp_path)
    evaluation = json.loads((folder / "ccip.json").read_text())
    evaluation["skipped"] = [{"character": f"nobody_{i}", "reason": "too few"} for i in range(50)]
    (folder / "ccip.json").write_text(json.dumps(evaluation))
    seal_evaluation(folder)
    assert run(folder).returncode == 0
    card, page = outputs(folder)
    assert "Not scored (50)" in card and "nobody 39 (too few); and 10 more" in card and "nobody 40" not in card
    assert all(f"nobody {i}<" in page for i in range(50))


@pytest.mark.parametrize(
    ("trained", "card_words", "page_words"),
    [
        (1234, "5,678 in all, of which the model was trained on 1,234;", "5,678 in all; the model was trained on 1,234 of them<"),
        (0, "5,678 in all, of which the model was trained on none;", "5,678 in all; the model was trained on none of them<"),
        (None, "5,678 in all; ", "5,678 in all<"),
    ],
)
def test_how_many_reference_pictures_were_trained_on_is_told(tmp_path, trained, card_words, page_words):
    folder = write_reports(tmp_path)
    evaluation = json.loads((folder / "ccip.json").read_text())
    evaluation["references"] |= {"pictures": 5678, "trained": trained}
    (folder / "ccip.json").write_text(json.dumps(evaluation))
    seal_evaluation(folder)
    assert run(folder).returncode == 0
    card, page = outputs(folder)
    assert card_words in card and page_words in page


def test_three_models_have_a_column_each(tmp_path):
    folder = write_reports(tmp_path)
    evaluation = json.loads((folder / "ccip.json").read_text())
    for models in (evaluation["models"], *(mode["models"] for mode in evaluation["modes"].values())):
        models["delta"] = models["base"] | {"score": 0.333}
    (folder / "ccip.json").write_text(json.dumps(evaluation))
    table = folder / "ccip_characters.csv"
    lines = table.read_text().splitlines()
    lines += [line.replace(",base,", ",delta,") for line in lines if ",base," in line]
    table.write_text("\n".join(lines) + "\n")
    seal_evaluation(folder, ["base", "delta", "merged"])
    assert run(folder).returncode == 0
    card, page = outputs(folder)
    assert "| | base | delta | this model (merged) | difference |" in card and "| 0.140 | 0.333 | 0.755 |" in card
    assert ">delta</button>" in page


def test_frozen_text_encoders_are_said_to_be_frozen(tmp_path):
    folder = write_reports(tmp_path)
    assert run(folder, "--set", "te_lr=0.0").returncode == 0
    card, page = outputs(folder)
    assert "text encoders frozen" in card and "text encoders frozen" in page


def test_hostile_names_stay_text(tmp_path):
    folder = write_reports(tmp_path)
    evil = 'x"><script>alert(1)</script>|`*_[a](b)'
    for name in ("characters.json", "artists.json"):
        counts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({evil: {"posts": 99, "class": "< 100"}} | counts))
    characters = [(evil, evil), *CHARACTERS[1:]]
    write_character_scores(folder, characters)
    write_references(folder, characters)
    (folder / "pictures" / "sheets" / f"{quote(evil, safe='')}.png").write_bytes((folder / "ccip" / "own.png").read_bytes())
    evaluation = json.loads((folder / "ccip.json").read_text())
    evaluation["skipped"] = [{"character": evil, "reason": "<img src=x onerror=alert(1)>"}]
    (folder / "ccip.json").write_text(json.dumps(evaluation))
    seal_evaluation(folder)
    result = run(folder, "--set", 'report.title=<b>&"Title"', "--set", "report.description=</title><script>")
    assert result.returncode == 0, result.stderr
    card, page = outputs(folder)
    links = parsed(page)
    assert links.tags.count("script") == 1 and "alert(1)" in "".join(links.text)
    assert all(link.startswith(("data:image/", "#")) for link in links.loaded)
    assert r"\<script\>" in card and not re.search(r"(?<!\\)<(script|img|b|/title)", without_code(card))
    row = next(line for line in card.splitlines() if line.startswith("| x"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 9


def test_a_missing_input_is_one_line_and_nothing_is_written(tmp_path):
    folder = write_reports(tmp_path)
    result = run(folder, "--ccip-run", str(folder / "nowhere"))
    assert result.returncode == 2
    assert "nowhere" in result.stderr and result.stderr.count("\n") == 1
    assert not (folder / "index.html").exists() and not (folder / "MODEL_CARD.md").exists()


def test_help_explains_itself():
    result = subprocess.run([sys.executable, SCRIPT, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "--page" in result.stdout

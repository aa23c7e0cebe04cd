import base64
import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from small_reports import THRESHOLD, report_arguments, write_reports

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
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links.loaded)
    assert "@import" not in page and not re.search(r"url\s*\(", page)
    assert "default-src 'none'" in page
    assert not {"iframe", "object", "embed", "link"} & set(links.tags)


def test_every_picture_is_inside_and_has_words(made):
    page = outputs(made)[1]
    for path in [*made.glob("ccip/*.png"), *made.glob("pictures/*.png")]:
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
    for model in ("base", "merged"):
        for document in (card, text):
            assert f"{evaluation['models'][model]['score']:.3f}" in document
    assert f"{evaluation['difference']['mean']:+.3f}" in card and f"{evaluation['difference']['mean']:+.3f}" in text
    assert r"\[0.442, 0.789\]" in card and "[0.442, 0.789]" in text
    for document in (card, text):
        assert str(THRESHOLD) in document
        assert "a" * 64 in document and "d" * 64 in document
    funnel = json.loads((made / "filter.json").read_text())
    for step in funnel["steps"]:
        assert f"| {step['reason']} | {step['dropped']} | {step['left']} |" in card
        assert step["reason"] in text


def test_card_lists_every_character(made):
    card = outputs(made)[0]
    with open(made / "ccip_characters.csv", newline="") as file:
        rows = {(row["character"], row["model"]): float(row["score"]) for row in csv.DictReader(file)}
    for name in {name for name, _ in rows}:
        base, merged = rows[name, "base"], rows[name, "merged"]
        line = next(line for line in card.splitlines() if line.startswith(f"| {name.replace('_', ' ')} |"))
        assert line.endswith(f"| {base:.3f} | {merged:.3f} | {merged - base:+.3f} |")


def test_front_matter_is_what_the_hub_reads(made):
    _, matter, _ = outputs(made)[0].split("---\n", 2)
    fields = yaml.safe_load(matter)
    assert fields["license"] == "cc-by-4.0" and fields["pipeline_tag"] == "text-to-image"
    assert fields["base_model"] == "sample_base" and "stable-diffusion-xl" in fields["tags"]
    metric = fields["model-index"][0]["results"][0]["metrics"][0]
    assert metric["value"] == json.loads((made / "ccip.json").read_text())["models"]["merged"]["score"]


def test_the_grid_is_linked_beside_the_card(made):
    target = re.search(r"^!\[.*\]\((.*)\)$", outputs(made)[0], re.MULTILINE)[1]
    assert (made / target).is_file()


def test_training_settings_come_from_the_parameters(tmp_path):
    folder = write_reports(tmp_path)
    assert run(folder, "--set", "lr=2e-5", "--set", "train.tag_dropout=0.25", "--set", "recipe=other").returncode == 0
    card, page = outputs(folder)
    assert "Learning rate: 2e-5 for the UNet" in card and "25 % of the tags" in card
    assert "2e-5" in page and "recipe other" in page
    assert "text encoders not frozen" in card


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
    table = folder / "ccip_characters.csv"
    with open(table, newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:3]:
        row[0] = row[1] = evil
    with open(table, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    (folder / "pictures" / "pictures.csv").write_text('character,prompt\n"' + evil.replace('"', '""') + '","</script>```\n"\n')
    evaluation = json.loads((folder / "ccip.json").read_text())
    evaluation["skipped"] = [{"character": evil, "reason": "<img src=x onerror=alert(1)>"}]
    (folder / "ccip.json").write_text(json.dumps(evaluation))
    result = run(folder, "--set", 'report.title=<b>&"Title"', "--set", "report.description=</title><script>")
    assert result.returncode == 0, result.stderr
    card, page = outputs(folder)
    links = parsed(page)
    assert links.tags.count("script") == 1 and "alert(1)" in "".join(links.text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links.loaded)
    assert r"\<script\>" in card and not re.search(r"(?<!\\)<(script|img|b|/title)", without_code(card))
    row = next(line for line in card.splitlines() if line.startswith("| x"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


@pytest.mark.parametrize(
    "option",
    ["--funnel", "--artists", "--characters", "--latents", "--history", "--train-metrics", "--merge", "--ccip",
     "--ccip-characters", "--ccip-plots", "--pictures", "--hash"],
)  # fmt: skip
def test_a_missing_input_is_one_line(tmp_path, option):
    folder = write_reports(tmp_path)
    result = run(folder, option, str(folder / "nowhere"))
    assert result.returncode == 2
    assert "nowhere" in result.stderr and result.stderr.count("\n") == 1
    assert not (folder / "index.html").exists() and not (folder / "MODEL_CARD.md").exists()


def test_help_explains_itself():
    result = subprocess.run([sys.executable, SCRIPT, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "--page" in result.stdout

"""The page in a real browser, without a network: drawn, searched and sorted by a script that tells this test what it finds."""

import json
import re
import shutil
import subprocess
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from repro.params import load_params

import pytest
from small_reports import report_paths, write_reports

from reporting.inputs import read_inputs
from reporting.page import report_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
# Runs in the window that holds the page in a frame of a given width, and sends its findings, or what went wrong, to `REPORT`.
LOOKING = """
const frame = document.querySelector("iframe");
const wait = () => new Promise((done) => setTimeout(done, 50));
async function look() {
  const page = frame.contentDocument, view = frame.contentWindow, found = {errors: view.errors};
  await Promise.all([...page.images].map((image) => image.decode().catch(() => {})));
  found.images = [...page.images].map((image) => [image.naturalWidth, image.alt]);
  found.width = [page.documentElement.scrollWidth, page.documentElement.clientWidth];
  found.background = view.getComputedStyle(page.body).backgroundColor;
  const table = page.getElementById("character-table"), search = page.getElementById("search");
  const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const names = () => rows().map((row) => row.cells[0].textContent);
  const ask = async (text) => { search.value = text; search.dispatchEvent(new view.Event("input")); await wait(); };
  found.all = names();
  await ask("REN'PY tut");
  found.searched = names();
  found.counted = page.querySelector("output").textContent;
  await ask("nobody");
  found.nobody = names();
  await ask("");
  const heading = (text) => [...table.tHead.querySelectorAll("button")].find((button) => button.textContent === text);
  found.sorted = {};
  for (const text of ["Training pictures", "Training pictures", "base", "New artist", "Character"]) {
    heading(text).click();
    await wait();
    const at = heading(text).closest("th");
    (found.sorted[text] ??= []).push([at.getAttribute("aria-sort"), rows().map((row) => row.cells[at.cellIndex].textContent)]);
  }
  heading("base").focus();
  found.outline = view.getComputedStyle(page.activeElement).outlineStyle;
  const details = page.getElementById("sheet-1").closest("details");
  found.closed = details.open;
  view.location.hash = "#sheet-1";
  await wait();
  found.opened = details.open;
  return found;
}
const tell = (answer) => fetch(REPORT, {method: "POST", mode: "no-cors", body: JSON.stringify(answer)});
frame.addEventListener("load", () => look().catch((error) => ({failed: String(error)})).then(tell));
"""
# Stands before everything of the page, so that no error is missed.
LISTENING = """<script>window.errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
const complain = console.error; console.error = (...words) => { errors.push(words.join(" ")); complain(...words); };
</script>"""


class Report(HTTPServer):
    """Waits on this machine for the one thing that the script sends."""

    timeout = 10.0
    answer: dict | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Receiver)

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.answer is None and time.monotonic() < end:
            self.handle_request()


class _Receiver(BaseHTTPRequestHandler):
    # A browser may open a connection ahead and send nothing over it.
    timeout = 10.0

    def do_POST(self) -> None:
        self.server.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Nothing: a test that passes prints nothing."""


def look(folder: Path, page: str, width: int, scheme: str = "light") -> dict:
    """What the script above finds in the page, shown as a file in a frame of `width` pixels."""
    with Report() as report, open(folder / "browser.log", "w") as log:
        script = LOOKING.replace("REPORT", json.dumps(f"http://127.0.0.1:{report.server_port}/"))
        frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
        (folder / "page.html").write_text(page.replace("<head>", f"<head>{LISTENING}", 1))
        (folder / "window.html").write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{frame}<script>{script}</script></body>')
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--disable-background-networking", f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            "--window-size=1400,1000", (folder / "window.html").as_uri(),
        ]  # fmt: skip
        browser = subprocess.Popen(command, stdout=log, stderr=log)
        report.wait(120)
        browser.terminate()
        browser.wait()
    assert report.answer is not None, (folder / "browser.log").read_text()[-2000:]
    assert "failed" not in report.answer, report.answer
    return report.answer


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    paths = report_paths(write_reports(tmp_path_factory.mktemp("reports")))
    return report_page(load_params(Path("recipes/sample.yaml")), read_inputs(paths), paths)


@pytest.fixture(scope="module")
def desktop(page, tmp_path_factory) -> dict:
    return look(tmp_path_factory.mktemp("desktop"), page, 1280)


@pytest.fixture(scope="module")
def phone(page, tmp_path_factory) -> dict:
    return look(tmp_path_factory.mktemp("phone"), page, 390, "dark")


def test_nothing_goes_wrong_and_every_picture_is_drawn_and_has_words(desktop):
    assert desktop["errors"] == []
    assert len(desktop["images"]) == 4 + 3 + 8 + 1
    assert all(width > 0 and words for width, words in desktop["images"])


def test_search_keeps_the_rows_of_a_name_or_a_series(desktop):
    assert len(desktop["all"]) == 8
    assert desktop["searched"] == ["eileen (ren'py)", "lucy (ren'py)"]
    assert desktop["counted"] == "2 of 8 characters"
    assert desktop["nobody"] == []


def test_a_heading_sorts_by_number_and_once_more_the_other_way(desktop):
    (first, falling), (second, rising) = desktop["sorted"]["Training pictures"]
    assert (first, second) == ("descending", "ascending")
    assert [int(text) for text in falling] == sorted((int(text) for text in falling), reverse=True)
    assert rising == falling[::-1]
    assert desktop["sorted"]["base"][0][1] == [f"{0.04 * i:.3f}" for i in range(7, -1, -1)]


def test_what_is_missing_comes_last_and_names_go_up(desktop):
    (_, artists), (direction, names) = desktop["sorted"]["New artist"][0], desktop["sorted"]["Character"][0]
    assert artists[4:] == ["–"] * 4 and artists[:4] == sorted(artists[:4], reverse=True)
    assert direction == "ascending" and names == sorted(names)


def test_a_focused_heading_shows_and_a_link_opens_its_sheet(desktop):
    assert desktop["outline"] == "solid"
    assert (desktop["closed"], desktop["opened"]) == (False, True)


def test_neither_desktop_nor_phone_scrolls_sideways(desktop, phone):
    for found in (desktop, phone):
        drawn, there = found["width"]
        assert drawn == there


def test_the_page_is_dark_where_the_reader_wants_it_dark(desktop, phone):
    def brightness(colour: str) -> float:
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    assert brightness(desktop["background"]) > 240 and brightness(phone["background"]) < 40
    assert phone["errors"] == [] and all(width > 0 for width, _ in phone["images"])


def test_a_table_of_many_shows_its_first_rows(page, tmp_path):
    found = look(tmp_path, page.replace('data-rows="100"', 'data-rows="3"', 1), 1280)
    assert len(found["all"]) == 3 and len(found["searched"]) == 2
    assert len(found["sorted"]["base"][0][1]) == 3

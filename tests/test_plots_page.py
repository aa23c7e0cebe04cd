"""DVC's own plots page: complete without a network, with the published Vega inside."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATE = ROOT / ".dvc" / "plots-page.html"
PLOTS = """\
plots:
  - Loss:
      x: update
      y:
        train.csv: loss
"""


class Loads(HTMLParser):
    """Everything a page loads."""

    def __init__(self):
        super().__init__()
        self.places = []

    def handle_starttag(self, tag, attributes):
        self.places += [value for name, value in attributes if name in ("src", "href")]


def test_the_scripts_are_the_published_ones():
    text = TEMPLATE.read_bytes()
    listed = dict(re.findall(rb"build/([a-z-]+)\.min\.js +sha256 ([0-9a-f]{64})", text))
    found = re.findall(rb'<script id="([a-z-]+)">(.*?)</script>', text, re.DOTALL)
    assert {name: hashlib.sha256(script).hexdigest().encode() for name, script in found} == listed
    assert list(listed) == [b"vega", b"vega-lite", b"vega-embed"]


def test_each_placeholder_of_dvc_stands_once():
    text = TEMPLATE.read_text(encoding="utf-8")
    assert text.count("{plot_divs}") == text.count("{refresh_tag}") == 1
    assert "{scripts}" not in text  # there DVC would put its own, from a content delivery network


@pytest.mark.skipif(shutil.which("git") is None, reason="DVC needs git")
def test_dvc_fills_it_in_and_loads_nothing(tmp_path):
    def call(*command: str) -> None:
        environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)

    dvc = (sys.executable, "-m", "dvc")
    call("git", "init", "-q")
    call(*dvc, "init", "-q")
    shutil.copy(TEMPLATE, tmp_path / ".dvc")
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    (tmp_path / "dvc.yaml").write_text(PLOTS)
    (tmp_path / "train.csv").write_text("update,loss\n1,0.5\n2,0.25\n")
    call(*dvc, "plots", "show")
    page = tmp_path / "dvc_plots" / "index.html"
    text = page.read_text(encoding="utf-8")
    loads = Loads()
    loads.feed(text)
    assert loads.places == []
    assert '"loss": "0.25"' in text and "{plot_divs}" not in text and "cdn." not in text

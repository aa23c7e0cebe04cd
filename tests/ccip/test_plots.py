"""Plot data, and PNGs that no user setting changes."""

import os
import subprocess
import sys
from pathlib import Path

from repro.hashing import hash_tree
from repro.randomness import Stream

import numpy as np
import pytest
from PIL import Image

from ccip.plots import BINS, ScoredCharacter, difference_histogram, rank_rows, write_plots

CHARACTERS = [
    ScoredCharacter("mika", 0.125, 0.75),
    ScoredCharacter("aoi", 0.25, 0.5),
    ScoredCharacter("eileen_(ren'py)", 0.0, 1.0),
]
DRAW = """
import sys
from pathlib import Path
import repro
sys.path.insert(0, "tests/ccip")
from test_plots import draw
draw(Path(sys.argv[1]))
"""


def features(purpose: str) -> np.ndarray:
    stream = Stream(5, purpose)
    return np.array([[stream.uniform() * 2 - 1 for _ in range(16)] for _ in range(4)])


def draw(folder: Path) -> None:
    folder.mkdir()
    references, base, merged = ([features(f"{kind} {c.name}") for c in CHARACTERS] for kind in ("references", "base", "merged"))
    write_plots(folder, CHARACTERS, difference_histogram(references, base, merged), 0.1784)


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots") / "ccip"
    draw(folder)
    return folder


def test_ranks_sort_each_model_by_itself():
    assert rank_rows(CHARACTERS) == [(1, 0.25, 1.0), (2, 0.125, 0.75), (3, 0.0, 0.5)]


def test_histogram_shares_add_up():
    a, b = features("a"), features("b")
    histogram = difference_histogram([a, b], [b, a], [a, b])
    assert all(sum(share) == pytest.approx(1) and len(share) == BINS for share in histogram.shares.values())
    assert histogram.shares["merged"][0] == 0.25, "a picture that is its reference has no difference, 4 of 16 pairs"
    assert histogram.shares["base"] == histogram.shares["different"]


def test_one_character_with_one_reference_has_a_histogram_too():
    one = features("one")[:1]
    shares = difference_histogram([one], [one], [one]).shares
    assert sum(shares["same"]) == sum(shares["different"]) == 0
    assert shares["merged"][0] == 1


def test_files(plots):
    assert sorted(hash_tree(plots)) == ["histogram.csv", "histogram.png", "rank.csv", "rank.png", "scatter.csv", "scatter.png"]
    assert (plots / "rank.csv").read_text() == "rank,base,merged\n1,0.25,1.0\n2,0.125,0.75\n3,0.0,0.5\n"
    assert (plots / "scatter.csv").read_text().splitlines()[0] == "character,base,merged"
    assert len((plots / "histogram.csv").read_text().splitlines()) == BINS + 1


def test_pngs_say_nothing_about_their_maker(plots):
    for file in plots.glob("*.png"):
        with Image.open(file) as image:
            image.load()
            assert "Software" not in image.info and "Date" not in image.info


def test_no_user_setting_reaches_the_bytes(plots, tmp_path):
    settings = tmp_path / "matplotlibrc"
    settings.write_text("axes.facecolor: red\nfont.size: 20\nsavefig.dpi: 50\n")
    other = dict(os.environ, MATPLOTLIBRC=str(settings), MPLCONFIGDIR=str(tmp_path / "mpl"), HOME=str(tmp_path), TZ="Asia/Tokyo")
    other |= {"PYTHONHASHSEED": "7", "LC_ALL": "C", "PYTHONPATH": "stages"}
    subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / "again")], env=other, check=True)
    assert hash_tree(tmp_path / "again") == hash_tree(plots)

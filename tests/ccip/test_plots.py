"""Plot data, and pictures that no user setting changes."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

from repro.hashing import hash_tree
from repro.randomness import Stream

import pytest
from made_evaluations import made_evaluation
from PIL import Image

from ccip.histogram import BINS, Histogram
from ccip.plots import write_plots
from ccip.rank_plot import rank_rows
from ccip.results import Evaluation

DRAW = """
import sys
from pathlib import Path
import repro
sys.path.insert(0, "tests/ccip")
from test_plots import draw, many, small
draw(Path(sys.argv[1]), small())
draw(Path(sys.argv[2]), many())
"""
ALL_FILES = {f"{name}.{end}" for name in ("histogram", "modes", "rank", "scatter", "training_pictures")
               for end in ("csv", "png", "svg")}  # fmt: skip


def small() -> Evaluation:
    """Three characters, two models; one character with a held-out artist, another without training pictures."""
    scores = {
        "mika": {("base", "name"): [0.25, 0.0], ("merged", "name"): [0.75, 0.75], ("base", "core_tags"): [0.5, 0.5],
                 ("merged", "core_tags"): [1.0, 1.0], ("base", "new_artist"): [0.0], ("merged", "new_artist"): [0.5]},
        "aoi": {("base", "name"): [0.25, 0.25], ("merged", "name"): [0.5, 0.5], ("base", "core_tags"): [0.5, 0.5],
                ("merged", "core_tags"): [0.5, 0.5]},
        "eileen_(ren'py)": {("base", "name"): [0.0, 0.0], ("merged", "name"): [1.0, 1.0], ("base", "core_tags"): [0.0, 0.0],
                            ("merged", "core_tags"): [0.5, 1.0]},
    }  # fmt: skip
    return made_evaluation(scores, {"mika": 130, "aoi": 45})


def many() -> Evaluation:
    """3600 characters, as in Kohaku XL Epsilon's benchmark."""

    def scores(i: int) -> dict[tuple[str, str], list[float]]:
        stream = Stream(1, "plots", i)
        return {(m, mode): [round(stream.uniform() * 80) / 80] for m in ("base", "merged") for mode in ("name", "core_tags")}

    names = [f"character_{i:04d}" for i in range(3600)]
    counts = {name: 1 + Stream(2, "counts", name).below(3000) for name in names}
    return made_evaluation({name: scores(i) for i, name in enumerate(names)}, counts)


def made_histogram(models: tuple[str, ...]) -> Histogram:
    def at(place: int) -> list[float]:
        return [0.5 if i in (place, place + 1) else 0.0 for i in range(BINS)]

    return Histogram(at(3), at(25), {model: at(5 + 5 * i) for i, model in enumerate(models)})


def draw(folder: Path, evaluation: Evaluation) -> None:
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_plots(folder, evaluation, made_histogram(evaluation.models))


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots") / "ccip"
    draw(folder, small())
    return folder


@pytest.fixture(scope="module")
def many_plots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots") / "many"
    draw(folder, many())
    return folder


def test_ranks_sort_each_model_by_itself():
    assert rank_rows({"a": [0.1, 0.3], "b": [0.9, 0.8], "c": [0, 1]}) == [(1, 0.3, 0.9, 1), (2, 0.1, 0.8, 0)]


def test_files_and_their_data(plots):
    assert set(hash_tree(plots)) == ALL_FILES
    assert (plots / "rank.csv").read_text() == "rank,base,merged\n1,0.25,1.0\n2,0.125,0.75\n3,0.0,0.5\n"
    assert (plots / "scatter.csv").read_text() == (
        "character,base,merged\naoi,0.25,0.5\neileen_(ren'py),0.0,1.0\nmika,0.125,0.75\n"
    )
    assert (plots / "training_pictures.csv").read_text() == (
        "character,training_pictures,base,merged\naoi,45,0.25,0.5\neileen_(ren'py),0,0.0,1.0\nmika,130,0.125,0.75\n"
    )
    assert (plots / "modes.csv").read_text() == (
        "character,name,core_tags,new_artist\naoi,0.5,0.5,\neileen_(ren'py),1.0,0.75,\nmika,0.75,1.0,0.5\n"
    )
    histogram = (plots / "histogram.csv").read_text().splitlines()
    assert len(histogram) == BINS + 1
    assert (histogram[0], histogram[4]) == ("difference,same,different,base,merged", "0.07,0.5,0.0,0.0,0.0")


def test_pictures_say_nothing_about_their_maker(plots):
    for file in plots.glob("*.png"):
        with Image.open(file) as image:
            image.load()
            assert image.info.keys() <= {"dpi"}
    for file in plots.glob("*.svg"):
        text = file.read_text(encoding="utf-8")
        assert "<dc:date>" not in text and "<dc:creator>" not in text and "<text" not in text


def test_no_user_setting_reaches_the_bytes(plots, many_plots, tmp_path):
    settings = tmp_path / "matplotlibrc"
    settings.write_text(
        "axes.facecolor: red\nfont.size: 20\nsavefig.dpi: 50\nsvg.fonttype: none\naxes.formatter.use_locale: True\n"
    )
    other = dict(os.environ, MATPLOTLIBRC=str(settings), MPLCONFIGDIR=str(tmp_path / "mpl"), HOME=str(tmp_path), TZ="Asia/Tokyo")
    other |= {"PYTHONHASHSEED": "7", "LC_ALL": "C", "SOURCE_DATE_EPOCH": "1", "PYTHONPATH": f"stages{os.pathsep}tests"}
    subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / "small"), str(tmp_path / "many")], env=other, check=True)
    assert hash_tree(tmp_path / "small") == hash_tree(plots)
    assert hash_tree(tmp_path / "many") == hash_tree(many_plots)


def test_thousands_of_characters_make_small_files(many_plots):
    assert set(hash_tree(many_plots)) == ALL_FILES
    assert all(file.stat().st_size < 600_000 for file in many_plots.iterdir())


def test_one_model_and_one_mode_have_no_comparison(tmp_path):
    draw(tmp_path / "one", made_evaluation({"a": {("mine", "given"): [0.5]}, "b": {("mine", "given"): [1.0]}}))
    assert {file.stem for file in (tmp_path / "one").iterdir()} == {"rank", "histogram"}


def test_three_models_are_columns_of_the_data_in_their_order(tmp_path):
    scores = {name: {(m, "name"): [s] for m, s in (("z", 0.5), ("a", 0.25), ("m", 1.0))} for name in ("x", "y")}
    draw(tmp_path / "three", made_evaluation(scores, {"x": 7}))
    assert (tmp_path / "three" / "rank.csv").read_text().splitlines()[:2] == ["rank,z,a,m", "1,0.5,0.25,1.0"]
    assert (tmp_path / "three" / "training_pictures.csv").read_text().splitlines()[1] == "x,7,0.5,0.25,1.0"


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_scores_all_equal_and_awkward_names_are_drawn(score, tmp_path):
    """No warning either: of text taken for mathematics, of missing glyphs, of axes without extent."""
    names = ["_hidden", "$x$ $", "初音ミク", "l" * 300, "a\nb"]
    scores = {name: {(m, mode): [score] for m in ("_base", "$m^$") for mode in ("name", "core_tags")} for name in names}
    draw(tmp_path / "equal", made_evaluation(scores, dict.fromkeys(names, 1)))
    assert (tmp_path / "equal" / "modes.svg").is_file()

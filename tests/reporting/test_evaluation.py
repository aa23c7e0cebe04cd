from pathlib import Path

from repro.params import SAMPLERS, read_yaml

import pytest
from small_reports import report_paths, write_reports

from reporting.evaluation import (
    CAVEATS_FILE,
    MEASURES,
    SAMPLER_WORDS,
    extremes,
    mode_lines,
    named_skipped,
    plots_in_order,
    verdict,
)
from reporting.inputs import read_inputs
from reporting.records import CharacterRow, CharacterScores, Difference, Figures, SkippedCharacter


def row(name: str, base: float, merged: float) -> CharacterRow:
    scores = {(m, "name"): CharacterScores(4, s, s, 1.0, 1.0) for m, s in (("base", base), ("merged", merged))}
    return CharacterRow(name, "series", "1girl", 10, 8, 1.0, scores, ())


def change(one: CharacterRow) -> float:
    return one.scores["merged", "name"].score - one.scores["base", "name"].score


def test_few_rows_are_all_shown():
    rows = [row(str(i), 0.0, 1 - i / 10) for i in range(6)]
    assert extremes(rows, 2, change) == rows


def test_of_many_rows_best_worst_and_most_changed_are_shown_in_their_order():
    rows = [row(f"{i:02}", 0.5, 1 - i / 20) for i in range(20)]
    rows[10] = row("10", 0.0, 0.5)
    assert [r.name for r in extremes(rows, 2, change)] == ["00", "01", "10", "18", "19"]


@pytest.mark.parametrize(("ci95", "words"), [([0.1, 0.2], "above 0"), ([-0.2, -0.1], "below 0"), ([-0.1, 0.1], "includes 0")])
def test_the_verdict_follows_the_interval(ci95, words):
    text = verdict(Difference(mean=0.0, ci95=ci95, wins=0, ties=0, losses=0), "the old", "the new")
    assert words in text and "the old" in text and "the new" in text


def test_the_headline_is_the_first_mode_and_the_others_come_as_asked(tmp_path):
    inputs = read_inputs(report_paths(write_reports(tmp_path)))
    lines = mode_lines(inputs)
    assert [(name, mode.characters) for name, mode in lines] == [("name", 8), ("core_tags", 8), ("new_artist", 4)]
    assert lines[0][1].models == inputs.evaluation.models


def test_known_plots_come_first_and_keep_their_drawings():
    names = ["own.png", "histogram.png", "histogram.svg", "rank.svg", "rank.png", "rank.csv", "alone.svg"]
    plots = plots_in_order({name: Path(name) for name in names})
    assert [(plot.png.name, plot.svg and plot.svg.name) for plot in plots] == [
        ("rank.png", "rank.svg"), ("histogram.png", "histogram.svg"), ("own.png", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("skipped", "named", "more"), [(0, 0, 0), (40, 40, 0), (41, 40, 1), (700, 40, 660)])
def test_of_many_skipped_the_first_forty_are_named(skipped, named, more):
    characters = [SkippedCharacter(character=str(i), reason="few") for i in range(skipped)]
    shown, rest = named_skipped(characters)
    assert (len(shown), rest) == (named, more)


def test_every_sampler_has_words_and_every_measure_is_a_figure():
    assert set(SAMPLER_WORDS) == set(SAMPLERS)
    assert {key for _, key, _ in MEASURES} == set(Figures.model_fields)


def test_caveats_are_a_list_of_sentences():
    caveats = read_yaml(CAVEATS_FILE.read_text(), CAVEATS_FILE.name)
    assert len(caveats) >= 5 and all(isinstance(text, str) and text.endswith(".") for text in caveats)

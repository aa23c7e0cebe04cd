"""Grouping, summary and rounding; which characters the grid shows."""

import json
from dataclasses import replace
from pathlib import Path

from repro.outputs import json_text
from repro.randomness import Stream

import numpy as np
import pytest

from ccip.gallery import grid_choice
from ccip.pictures import picture_jobs
from ccip.prompts import requests_for
from ccip.references import Reference, Skipped
from ccip.results import CharacterResult, group_features, score_all, summary
from ccip.statistics import spread_and_comparison
from ccip.tables import csv_text, rounded

AOI = Reference("aoi", "harbour", "1girl", ("zoish",), (1, 2), ("deji",))
MIKA = replace(AOI, character="mika", posts=(3, 4), held_out_artists=())
THRESHOLD = 0.2


def features(purpose: str, rows: int) -> np.ndarray:
    stream = Stream(4, purpose)
    return np.array([[stream.uniform() * 2 - 1 for _ in range(64)] for _ in range(rows)], dtype=np.float32)


@pytest.fixture(scope="module")
def results() -> list[CharacterResult]:
    """The base draws noise; the merged model draws the first reference itself, held-out pictures too."""
    references = features("references", 4)
    jobs = picture_jobs(
        {"base": Path("a"), "merged": Path("b")}, [r for c in (AOI, MIKA) for r in requests_for(c, ["{character}"], 3)], Path("s")
    )
    drawn = np.stack([references[0 if job.request.character == "aoi" else 2] for job in jobs])
    drawn[: len(jobs) // 2] = features("noise", len(jobs) // 2)
    return score_all([AOI, MIKA], group_features([AOI, MIKA], references, jobs, drawn), THRESHOLD)


def test_each_picture_counts_for_its_own_character_and_model(results):
    assert [[r.scores[m].score for m in ("base", "merged")] for r in results] == [[0.0, 0.5], [0.0, 0.5]]
    assert all(r.scores["merged"].top1 == 1.0 for r in results)
    assert [len(r.scores["base"].picture_scores) for r in results] == [3, 3]
    assert results[0].held_out["merged"].picture_scores == (0.5,)
    assert results[1].held_out == {}


def test_summary(results):
    spreads, comparison = spread_and_comparison([0.0, 0.0], [0.5, 0.5], 20, 1)
    content = summary(results, [Skipped("nia", "why")], spreads, comparison, 0.12345678901)
    assert content["models"]["merged"]["score"] == 0.5
    assert content["difference"] == {"mean": 0.5, "ci95": [0.5, 0.5], "wins": 2, "ties": 0, "losses": 0}
    assert content["held_out"]["pairs"] == content["held_out"]["characters"] == 1
    assert content["held_out"]["merged"]["score"] == 0.5
    assert content["threshold"] == 0.12345678901, "an input is repeated exactly"
    assert content["skipped"] == [{"character": "nia", "reason": "why"}]
    assert json.loads(json_text(content)) == content


def test_without_held_out_pairs_their_figures_are_null(results):
    spreads, comparison = spread_and_comparison([0.0], [0.5], 20, 1)
    assert summary(results[1:], [], spreads, comparison, 0.2)["held_out"]["base"] == {
        "score": None,
        "ccip_diff": None,
        "top1": None,
    }


def test_grid_shows_all_or_some_evenly_from_best_to_worst(results):
    assert grid_choice(results, 16) == {"aoi", "mika"}
    many = [
        replace(
            results[0],
            reference=replace(AOI, character=f"c{i}"),
            scores={"merged": replace(results[0].scores["merged"], score=i / 10)},
        )
        for i in range(9)
    ]
    assert grid_choice(many, 3) == {"c8", "c4", "c0"}
    assert grid_choice(many, 1) == {"c8"}


def test_floats_are_rounded_everywhere_and_minus_zero_is_zero():
    assert rounded({"a": [0.12345678, (-0.0000001,)], "b": 3, "c": None}) == {"a": [0.123457, [0.0]], "b": 3, "c": None}
    assert "-" not in json_text(rounded([-0.0, -1e-9]))
    assert csv_text(["a", "b"], [(0.1 + 0.2, None), ("x, y", 1)]) == 'a,b\n0.3,\n"x, y",1\n'

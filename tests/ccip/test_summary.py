"""The report's content and its tables, from scores made by hand."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

from repro.outputs import json_text

import pytest

from ccip.pictured import Drawn, PicturedCharacter
from ccip.results import CharacterResult, Evaluation
from ccip.score import BorderlinePair, CharacterScore
from ccip.sources import PictureSource
from ccip.summary import CHARACTER_COLUMNS, borderline_csv, characters_csv, run_record, summary
from characters.references import Reference, Skipped

AOI = Reference("aoi", "harbour, the", "1girl", (), (), (1, 2), (), 100)
MIKA = replace(AOI, character="mika", training_pictures=900)
FIGURES = {
    "score", "ci95", "median", "above_50_percent", "above_90_percent", "score_over_upbound", "best_of_m", "ccip_diff", "cosine",
    "top1", "rank", "diversity",
}  # fmt: skip
PAIR = BorderlinePair(picture=1, reference=0, difference=0.1234567891)


def made(score: float, **changes) -> CharacterScore:
    figures = CharacterScore(
        score=score, picture_scores=(score, score), picture_diffs=(0.25, 0.25), best_of_m=score, ccip_diff=0.25, cosine=0.5,
        top1=0.5, rank=3.0, diversity=0.125, borderline=(),
    )  # fmt: skip
    return replace(figures, **changes)


def evaluation(models: tuple[str, ...] = ("base", "merged")) -> Evaluation:
    """Scores (0, 1/2, 1, ...) of the models for aoi, a quarter less for mika's others; aoi has a second mode."""
    results = []
    for reference in (AOI, MIKA):
        scores = {(model, "name"): made(i / 2 if reference is AOI else 0.25) for i, model in enumerate(models)}
        if reference is AOI:
            scores |= {(model, "new_artist"): made(0.75, diversity=None, borderline=(PAIR,)) for model in models}
        results.append(CharacterResult(reference, 2, scores, upbound=0.5 if reference is AOI else 0.0, ref_self=None))
    return Evaluation(models, ("name", "new_artist"), tuple(results), (Skipped("nia", "why"),), 0.12345678901)


def test_report():
    content = summary(evaluation(), 50, 1, 3)
    assert content["characters"] == 2
    assert content["headline"] == "name"
    assert set(content["models"]) == {"base", "merged"}
    assert set(content["models"]["merged"]) == FIGURES
    assert content["models"]["merged"]["score"] == 0.375
    assert content["models"]["merged"]["score_over_upbound"] == 1.0, "of those whose upper bound is not 0"
    assert content["difference"]["mean"] == 0.25
    assert (content["difference"]["wins"], content["difference"]["ties"], content["difference"]["losses"]) == (1, 1, 0)
    assert "differences" not in content
    assert content["references"] == {"upbound": 0.25, "ref_self": None, "pictures": 4, "trained": 3}
    assert content["pairs"] == 6 * 4
    assert content["borderline_pairs"] == 2
    assert content["threshold"] == 0.12345678901, "an input is repeated exactly"
    assert content["skipped"] == [{"character": "nia", "reason": "why"}]
    assert json.loads(json_text(content)) == content


def test_whether_references_were_trained_on_may_be_unknown():
    assert summary(evaluation(), 10, 1, None)["references"]["trained"] is None


def test_other_modes_are_over_the_characters_that_have_them():
    modes = summary(evaluation(), 50, 1, None)["modes"]
    assert list(modes) == ["new_artist"], "the headline's figures stand once"
    mode = modes["new_artist"]
    assert (mode["characters"], mode["pictures"]) == (1, 2)
    assert mode["models"]["base"]["score"] == 0.75
    assert mode["models"]["base"]["diversity"] is None
    assert mode["difference"] == {"mean": 0.0, "ci95": [0.0, 0.0], "wins": 0, "ties": 1, "losses": 0}


def test_training_pictures_and_scores_are_correlated_by_rank():
    assert summary(evaluation(), 10, 1, None)["training_pictures"] == {"spearman": {"base": 1.0, "merged": -1.0}}


def test_one_model_has_no_difference():
    content = summary(evaluation(("only",)), 10, 1, None)
    assert content["difference"] is None
    assert content["modes"]["new_artist"]["difference"] is None
    assert "differences" not in content


def test_of_more_models_the_last_is_the_one_of_interest():
    content = summary(evaluation(("base", "half", "merged")), 10, 1, None)
    assert list(content["differences"]) == ["half", "merged"]
    assert content["difference"] == content["differences"]["merged"]
    assert content["differences"]["half"]["mean"] == 0.25
    assert content["difference"]["mean"] == 0.5


def test_a_row_a_character_model_and_mode():
    text = characters_csv(evaluation())
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == CHARACTER_COLUMNS
    assert [(row["character"], row["model"], row["mode"]) for row in rows] == [
        ("aoi", "base", "name"), ("aoi", "base", "new_artist"), ("aoi", "merged", "name"), ("aoi", "merged", "new_artist"),
        ("mika", "base", "name"), ("mika", "merged", "name"),
    ]  # fmt: skip
    assert rows[2] == {
        "character": "aoi", "series": "harbour, the", "gender": "1girl", "training_pictures": "100", "model": "merged",
        "mode": "name", "references": "2", "pictures": "2", "score": "0.5", "score_over_upbound": "1.0", "upbound": "0.5",
        "ref_self": "", "cosine": "0.5", "ccip_diff": "0.25", "best_of_m": "0.5", "top1": "0.5", "rank": "3.0",
        "diversity": "0.125", "borderline_pairs": "0",
    }  # fmt: skip
    assert rows[1]["diversity"] == rows[5]["score_over_upbound"] == ""
    assert rows[1]["borderline_pairs"] == "1"


def test_borderline_pairs_by_number_and_post():
    source = PictureSource("one", "0" * 64, Path)
    drawn = {(m, mode): Drawn((4, 5), (source, source)) for m in ("base", "merged") for mode in ("name", "new_artist")}
    characters = [PicturedCharacter(reference, ("71", "72"), (source, source), drawn) for reference in (AOI, MIKA)]
    assert borderline_csv(evaluation(), characters) == (
        "character,model,mode,number,reference,difference\n"
        "aoi,base,new_artist,5,71,0.123456789\n"
        "aoi,merged,new_artist,5,71,0.123456789\n"
    )


@pytest.mark.parametrize("requests", [None, "r"])
def test_record_of_what_was_scored(requests):
    assert run_record(evaluation(), {"model_feat.onnx": "e"}, {"aoi": "p"}, requests, "j", "t") == {
        "encoder": {"model_feat.onnx": "e"}, "threshold": 0.12345678901, "references": {"aoi": "p"}, "requests": requests,
        "ccip_json": "j", "characters_csv": "t", "models": ["base", "merged"], "headline": "name",
    }  # fmt: skip

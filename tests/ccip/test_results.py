"""From features to the scores of all characters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_pictures import random_features

from ccip.results import CharacterFeatures, Evaluation, evaluate, headline_first
from ccip.score import score_character, self_score, upper_bound
from characters.references import Reference, Skipped

AOI = Reference("aoi", "harbour", "1girl", (), (), (1, 2), (), 70)
MODELS, MODES = ("base", "merged"), ("name", "new_artist")
THRESHOLD = 0.25


def characters(count: int = 3, dims: int = 24) -> list[CharacterFeatures]:
    """The base draws noise; the merged model draws each character's first reference; the first character has pictures in a
    second mode. Numbers of references and pictures differ."""
    found = []
    for i in range(count):
        references = random_features(f"references {i}", 2 + i, dims)
        pictures = {("base", "name"): random_features(f"noise {i}", 3, dims), ("merged", "name"): references[[0] * (1 + i)]}
        if i == 0:
            pictures |= {(model, "new_artist"): random_features(model, 1, dims) for model in MODELS}
        found.append(CharacterFeatures(replace(AOI, character=f"c{i}"), references, pictures))
    return found


def test_each_picture_counts_for_its_own_character_model_and_mode():
    given_characters = characters()
    found = evaluate(MODELS, MODES, given_characters, [Skipped("nia", "why")], THRESHOLD)
    assert found.models == MODELS
    assert found.skipped == (Skipped("nia", "why"),)
    assert [result.reference.character for result in found.results] == ["c0", "c1", "c2"]
    for character, result in zip(given_characters, found.results, strict=True):
        assert result.references == len(character.references)
        assert result.scores.keys() == character.pictures.keys()
        assert (result.upbound, result.ref_self) == (
            upper_bound(character.references, THRESHOLD),
            self_score(character.references, THRESHOLD),
        )
        for key, score in result.scores.items():
            alone = score_character(character.references, character.pictures[key], THRESHOLD, [1.0] * len(score.picture_scores))
            assert replace(score, rank=1.0, top1=1.0) == alone
        merged = result.scores["merged", "name"]
        assert merged.picture_scores == ((1 / result.references),) * len(merged.picture_scores)
        assert (merged.top1, merged.rank) == (1.0, 1.0)


@given(st.permutations(range(4)))
def test_order_of_characters_does_not_matter(order):
    ordered = characters(4)
    assert evaluate(MODELS, MODES, [ordered[i] for i in order], [], THRESHOLD) == evaluate(MODELS, MODES, ordered, [], THRESHOLD)


def test_a_character_more_changes_only_places():
    few, many = (evaluate(MODELS, MODES, characters(n), [], THRESHOLD) for n in (3, 5))
    for one, other in zip(few.results, many.results[:3], strict=True):
        for key, score in one.scores.items():
            assert replace(score, rank=0, top1=0) == replace(other.scores[key], rank=0, top1=0)
            assert other.scores[key].rank >= score.rank


def test_headline_is_the_first_mode_that_all_have():
    found = evaluate(MODELS, ["new_artist", "name"], characters(), [], THRESHOLD)
    assert found.modes == ("name", "new_artist")
    assert found.headline == "name"
    assert [len(found.having(mode)) for mode in found.modes] == [3, 1]
    both = CharacterFeatures(AOI, np.zeros((1, 4)), {("a", mode): np.zeros((1, 4)) for mode in MODES})
    assert headline_first(["core_tags", "name"], [both]) == ("name", "core_tags")
    with pytest.raises(ValueError, match="no mode"):
        headline_first(["new_artist"], characters())


def test_one_character_one_model():
    (only,) = characters(1)
    pictures = {("given", "given"): only.references}
    found: Evaluation = evaluate(["given"], ["given"], [replace(only, pictures=pictures)], [], 0.9999)
    assert found.results[0].scores["given", "given"].score == 1.0

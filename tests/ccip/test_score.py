"""The score against dghs-imgutils, deepghs/sdeval and cyberharem, and what must hold by definition."""

import json
from pathlib import Path

from repro.errors import StageError

import numpy as np
import pytest
from tiny_pictures import random_features

from ccip.score import (
    BorderlinePair,
    CharacterScore,
    check_features,
    differences,
    mean_pair_difference,
    merged_feature,
    score_character,
    self_score,
    upper_bound,
)


@pytest.fixture(scope="module")
def answers(golden: Path) -> dict:
    return json.loads((golden / "evaluate/ccip/set/expected.json").read_text())


@pytest.fixture(scope="module")
def features(golden: Path, answers: dict) -> dict[str, np.ndarray]:
    """The reference program's features by file name."""
    with np.load(golden / "evaluate/ccip/set/expected.npz") as arrays:
        return dict(zip(answers["files"], arrays["features"], strict=True))


def score(references: np.ndarray, generated: np.ndarray, threshold: float) -> CharacterScore:
    return score_character(references, generated, threshold, [1.0] * len(generated))


@pytest.mark.golden
def test_differences_are_those_of_the_metrics_network(golden, answers, features):
    ours = differences(*[np.stack([features[name] for name in answers["files"]])] * 2)
    with np.load(golden / "evaluate/ccip/set/expected.npz") as arrays:
        theirs, same, same_alt = arrays["differences"], arrays["same"], arrays["same_alt"]
    assert np.abs(ours - theirs).max() < 1e-6
    off_diagonal = ~np.eye(len(ours), dtype=bool)
    assert ((ours <= answers["threshold"]) == same)[off_diagonal].all()
    assert ((ours <= answers["threshold_alt"]) == same_alt)[off_diagonal].all()


@pytest.mark.golden
@pytest.mark.parametrize("character", ["char0", "char1", "char2"])
def test_score_is_sdevals(answers, features, character):
    expected = answers["characters"][character]
    references = np.stack([features[name] for name in expected["ref"]])
    generated = np.stack([features[name] for name in expected["gen"]])
    result = score(references, generated, answers["threshold"])
    assert list(result.picture_scores) == expected["sdeval_same_seq"]
    assert result.score == expected["sdeval_same_mean"]
    assert result.best_of_m == max(expected["sdeval_same_seq"])
    assert np.allclose(result.picture_diffs, expected["sdeval_diff_seq"], rtol=0, atol=1e-6)
    assert abs(result.ccip_diff - expected["sdeval_diff_mean"]) < 1e-6
    assert upper_bound(references, answers["threshold"]) == expected["cyberharem_upbound"]


@pytest.mark.golden
@pytest.mark.parametrize("character", ["char0", "char1", "char2"])
def test_merged_feature_is_imgutils(answers, features, character):
    expected = answers["characters"][character]
    references = np.stack([features[name] for name in expected["ref"]])
    merged = merged_feature(references)
    assert np.allclose(merged[:8], expected["merged_first8"], rtol=0, atol=1e-5)
    assert abs(np.linalg.norm(merged) - expected["merged_norm"]) < 1e-4
    assert np.allclose(differences(merged[np.newaxis], references)[0], expected["merged_diffs"], rtol=0, atol=1e-6)


def test_a_pair_at_the_threshold_is_not_the_same_for_the_score_but_is_for_the_upper_bound():
    features = random_features("edge", 2)
    edge = float(differences(features[:1], features[1:])[0, 0])
    assert score(features[:1], features[1:], edge).score == 0.0
    assert score(features[:1], features[1:], np.nextafter(edge, 1)).score == 1.0
    assert score(features[:1], features[1:], np.nextafter(edge, 0)).score == 0.0
    merged_edge = float(differences(merged_feature(features)[np.newaxis], features)[0].max())
    assert upper_bound(features, merged_edge) == 1.0
    assert upper_bound(features, np.nextafter(merged_edge, 0)) < 1.0


def test_a_pair_has_the_same_bits_in_every_call():
    a, b = random_features("a", 7), random_features("b", 5)
    whole = differences(a, b)
    for i in range(7):
        for j in range(5):
            assert whole[i, j] == differences(a[i : i + 1], b[j : j + 1])[0, 0] == differences(b, a)[j, i]


def test_order_of_pictures_and_references_does_not_matter():
    references, generated = random_features("references", 6), random_features("generated", 4)
    threshold = float(np.median(differences(references, generated)))
    one, other = score(references, generated, threshold), score(references[::-1], generated[[2, 0, 3, 1]], threshold)
    for name in ("score", "best_of_m", "ccip_diff", "cosine", "diversity"):
        assert getattr(one, name) == getattr(other, name)
    assert other.picture_scores == tuple(one.picture_scores[k] for k in (2, 0, 3, 1))
    assert (merged_feature(references) == merged_feature(references[::-1])).all()
    assert self_score(references, threshold) == self_score(references[::-1], threshold)


def test_copies_of_the_references_score_one_and_strangers_nothing():
    references = random_features("person", 1) + 0.1 * random_features("variation", 8)
    own = score(references, references[:4], 0.1)
    assert (own.score, own.best_of_m) == (1.0, 1.0)
    assert self_score(references, 0.1) == 1.0
    assert upper_bound(references, 0.1) == 1.0
    other = score(references, random_features("stranger", 4), 0.1)
    assert (other.score, other.best_of_m) == (0.0, 0.0)


def test_one_reference_and_one_picture():
    one = random_features("one", 1)
    result = score(one, one, 0.2)
    assert (result.score, result.picture_scores, result.ccip_diff) == (1.0, (1.0,), pytest.approx(0, abs=1e-12))
    assert result.diversity is None
    assert self_score(one, 0.2) is None
    assert upper_bound(one, 0.2) == 1.0


def test_rank_is_the_mean_place_and_top1_counts_first_places_only():
    features = random_features("ranked", 4)
    result = score_character(features[:1], features, 0.2, [1.0, 3.0, 1.5, 1.0])
    assert (result.rank, result.top1) == (1.625, 0.5)


def test_diversity_is_the_mean_difference_of_two_pictures():
    features = random_features("diverse", 3)
    d = differences(features, features)
    assert mean_pair_difference(features) == pytest.approx((d[0, 1] + d[0, 2] + d[1, 2]) / 3)
    assert mean_pair_difference(np.repeat(features[:1], 4, axis=0)) == pytest.approx(0, abs=1e-12)
    assert mean_pair_difference(features[::-1]) == mean_pair_difference(features)


def test_pairs_near_the_threshold_are_listed():
    references, generated = random_features("near", 2), random_features("nearer", 3)
    d = differences(references, generated)
    for offset in (5e-6, -5e-6):
        found = score(references, generated, float(d[1, 2]) + offset).borderline
        assert found == (BorderlinePair(picture=2, reference=1, difference=float(d[1, 2])),)
    assert score(references, generated, float(d[1, 2]) + 2e-5).borderline == ()


@pytest.mark.parametrize("broken", [np.full(768, np.nan), np.zeros(768), np.full(768, np.inf)])
def test_unusable_features_are_refused(broken):
    with pytest.raises(StageError, match=r"alice 3.*no usable features"):
        check_features(broken, "alice 3")

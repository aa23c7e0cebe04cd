"""The score against dghs-imgutils, deepghs/sdeval and cyberharem, and what must hold by definition."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.randomness import Stream

import numpy as np
import pytest

from ccip.score import (
    check_features,
    differences,
    merged_feature,
    nearest_characters,
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


def some_features(purpose: str, rows: int, dims: int = 768) -> np.ndarray:
    stream = Stream(1, purpose)
    return np.array([[stream.uniform() * 2 - 1 for _ in range(dims)] for _ in range(rows)], dtype=np.float32)


def score(references: np.ndarray, generated: np.ndarray, threshold: float):
    return score_character(references, generated, threshold, 0, merged_feature(references)[np.newaxis])


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
    features = some_features("edge", 2)
    edge = float(differences(features[:1], features[1:])[0, 0])
    assert score(features[:1], features[1:], edge).score == 0.0
    assert score(features[:1], features[1:], np.nextafter(edge, 1)).score == 1.0
    merged_edge = float(differences(merged_feature(features)[np.newaxis], features)[0].max())
    assert upper_bound(features, merged_edge) == 1.0
    assert upper_bound(features, np.nextafter(merged_edge, 0)) < 1.0


def test_a_pair_has_the_same_bits_in_every_call():
    a, b = some_features("a", 7), some_features("b", 5)
    whole = differences(a, b)
    for i in range(7):
        for j in range(5):
            assert whole[i, j] == differences(a[i : i + 1], b[j : j + 1])[0, 0] == differences(b, a)[j, i]


def test_order_of_pictures_and_references_does_not_matter():
    references, generated = some_features("references", 6), some_features("generated", 4)
    threshold = float(np.median(differences(references, generated)))
    one, other = score(references, generated, threshold), score(references[::-1], generated[[2, 0, 3, 1]], threshold)
    for name in ("score", "best_of_m", "ccip_diff", "cosine", "borderline"):
        assert getattr(one, name) == getattr(other, name)
    assert sorted(one.picture_scores) == sorted(other.picture_scores)
    assert (merged_feature(references) == merged_feature(references[::-1])).all()
    assert self_score(references, threshold) == self_score(references[::-1], threshold)


def test_copies_of_the_references_score_one_and_strangers_nothing():
    references = some_features("person", 1) + 0.1 * some_features("variation", 8)
    strangers = some_features("stranger", 4)
    own = score(references, references[:4], 0.1)
    assert (own.score, own.best_of_m, own.top1) == (1.0, 1.0, 1.0)
    assert self_score(references, 0.1) == 1.0
    assert upper_bound(references, 0.1) == 1.0
    other = score_character(references, strangers, 0.1, 0, np.stack([merged_feature(references), merged_feature(strangers)]))
    assert (other.score, other.best_of_m, other.top1) == (0.0, 0.0, 0.0)


def test_one_reference_and_one_picture():
    one = some_features("one", 1)
    result = score(one, one, 0.2)
    assert (result.score, result.picture_scores, result.ccip_diff) == (1.0, (1.0,), pytest.approx(0, abs=1e-12))
    assert self_score(one, 0.2) is None
    assert upper_bound(one, 0.2) == 1.0


def test_top1_takes_the_nearest_of_all_characters():
    a, b = some_features("character a", 3), some_features("character b", 3)
    merged = np.stack([merged_feature(a), merged_feature(b)])
    assert nearest_characters(np.concatenate([a, b]), merged) == [0, 0, 0, 1, 1, 1]
    assert score_character(a, np.stack([a[0], b[0]]), 0.2, 0, merged).top1 == 0.5


def test_pairs_near_the_threshold_are_counted():
    references, generated = some_features("near", 2), some_features("nearer", 3)
    d = differences(references, generated)
    result = score(references, generated, float(d[0, 0]) + 5e-6)
    assert result.borderline == int((np.abs(d - float(d[0, 0]) - 5e-6) < 1e-5).sum()) >= 1


@pytest.mark.parametrize("broken", [np.full(768, np.nan), np.zeros(768), np.full(768, np.inf)])
def test_unusable_features_are_refused(broken):
    with pytest.raises(StageError, match=r"alice 3.*no usable features"):
        check_features(broken, "alice 3")

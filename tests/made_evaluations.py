"""Evaluations made up for tests of plots and pictures: scores given, nothing encoded."""

from collections.abc import Mapping, Sequence

from ccip.results import CharacterResult, Evaluation
from ccip.score import CharacterScore
from characters.references import Reference


def made_score(picture_scores: Sequence[float]) -> CharacterScore:
    """A score whose pictures have these scores."""
    mean = sum(picture_scores) / len(picture_scores)
    return CharacterScore(
        score=mean, picture_scores=tuple(picture_scores), picture_diffs=tuple(1 - s for s in picture_scores),
        best_of_m=max(picture_scores), ccip_diff=1 - mean, cosine=2 * mean - 1, top1=mean, rank=1.0, diversity=None,
        borderline=(),
    )  # fmt: skip


def made_reference(character: str, training_pictures: int = 0) -> Reference:
    return Reference(character, "series", "1girl", (), (), (), (), training_pictures)


def made_evaluation(
    characters: Mapping[str, Mapping[tuple[str, str], Sequence[float]]], training_pictures: Mapping[str, int] | None = None
) -> Evaluation:
    """An evaluation of `characters`: picture scores by (model, mode), by character."""
    results = tuple(
        CharacterResult(
            reference=made_reference(name, (training_pictures or {}).get(name, 0)),
            references=4,
            scores={key: made_score(pictures) for key, pictures in scores.items()},
            upbound=1.0,
            ref_self=0.5,
        )
        for name, scores in sorted(characters.items())
    )
    keys = list(dict.fromkeys(key for scores in characters.values() for key in scores))
    models, modes = tuple(dict.fromkeys(k[0] for k in keys)), tuple(dict.fromkeys(k[1] for k in keys))
    return Evaluation(models, modes, results, (), 0.1784)

"""From features to results: the scores of all characters, reports/ccip.json and its tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ccip.pictures import PictureJob
from ccip.references import Reference, Skipped
from ccip.score import CharacterScore, merged_feature, score_character, self_score, upper_bound
from ccip.statistics import Comparison, Spread, mean
from ccip.tables import csv_text, rounded

MODELS = ("base", "merged")


@dataclass(frozen=True)
class CharacterFeatures:
    """One character's features [pictures, dims]: its references; by model its taught and its held-out
    pictures (none of the latter where it has no held-out artists)."""

    references: np.ndarray
    taught: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]


@dataclass(frozen=True)
class CharacterResult:
    """One character's scores by model; `held_out` is empty where it has no held-out artists."""

    reference: Reference
    scores: dict[str, CharacterScore]
    held_out: dict[str, CharacterScore]
    upbound: float
    ref_self: float | None


def group_features(
    references: Sequence[Reference], reference_features: np.ndarray, jobs: Sequence[PictureJob], job_features: np.ndarray
) -> list[CharacterFeatures]:
    """Features by character. `reference_features` [characters * K, dims] is in the order of `references`,
    `job_features` [jobs, dims] in that of `jobs`."""
    rows: dict[tuple[str, str, bool], list[int]] = {}
    for row, job in enumerate(jobs):
        rows.setdefault((job.model, job.request.character, job.request.held_out), []).append(row)
    grouped = []
    for reference, own in zip(references, np.split(reference_features, len(references)), strict=True):
        taught = {model: job_features[rows[model, reference.character, False]] for model in MODELS}
        held_out = {
            model: job_features[rows[model, reference.character, True]]
            for model in MODELS
            if (model, reference.character, True) in rows
        }
        grouped.append(CharacterFeatures(own, taught, held_out))
    return grouped


def score_all(references: Sequence[Reference], features: Sequence[CharacterFeatures], threshold: float) -> list[CharacterResult]:
    """Score each character's pictures, in the order of `references`."""
    merged = np.stack([merged_feature(f.references) for f in features])
    return [
        CharacterResult(
            reference=reference,
            scores={m: score_character(f.references, pictures, threshold, i, merged) for m, pictures in f.taught.items()},
            held_out={m: score_character(f.references, pictures, threshold, i, merged) for m, pictures in f.held_out.items()},
            upbound=upper_bound(f.references, threshold),
            ref_self=self_score(f.references, threshold),
        )
        for i, (reference, f) in enumerate(zip(references, features, strict=True))
    ]


def summary(
    results: Sequence[CharacterResult],
    skipped: Sequence[Skipped],
    spreads: dict[str, Spread],
    comparison: Comparison,
    threshold: float,
) -> dict[str, Any]:
    """The content of reports/ccip.json: means over characters with 95 % intervals, floats rounded."""
    content = {
        "models": {name: _model_summary(results, name, spreads[name]) for name in MODELS},
        "difference": {
            "mean": comparison.mean,
            "ci95": comparison.ci95,
            "wins": comparison.wins,
            "ties": comparison.ties,
            "losses": comparison.losses,
        },
        "characters": len(results),
        "references": {
            "upbound": mean([r.upbound for r in results]),
            "ref_self": _mean_of_known(r.ref_self for r in results),
        },
        "held_out": _held_out_summary([r for r in results if r.held_out]),
        "borderline_pairs": sum(score.borderline for r in results for score in (*r.scores.values(), *r.held_out.values())),
        "skipped": [{"character": s.character, "reason": s.reason} for s in skipped],
    }
    # The threshold is an input, repeated exactly.
    return {**rounded(content), "threshold": threshold}


def _model_summary(results: Sequence[CharacterResult], name: str, spread: Spread) -> dict[str, Any]:
    scores = [result.scores[name] for result in results]
    return {
        "score": spread.mean,
        "ci95": spread.ci95,
        "median": spread.median,
        **{f"above_{round(100 * limit)}_percent": count for limit, count in spread.above.items()},
        "score_over_upbound": _mean_of_known(_over(r.scores[name].score, r.upbound) for r in results),
        "best_of_m": mean([s.best_of_m for s in scores]),
        "ccip_diff": mean([s.ccip_diff for s in scores]),
        "cosine": mean([s.cosine for s in scores]),
        "top1": mean([s.top1 for s in scores]),
    }


def _held_out_summary(results: Sequence[CharacterResult]) -> dict[str, Any]:
    """Means over the characters that have held-out artists; null where there are none."""
    figures = {
        name: {
            "score": _mean_of_known(r.held_out[name].score for r in results),
            "ccip_diff": _mean_of_known(r.held_out[name].ccip_diff for r in results),
            "top1": _mean_of_known(r.held_out[name].top1 for r in results),
        }
        for name in MODELS
    }
    return {"pairs": sum(len(r.reference.held_out_artists) for r in results), "characters": len(results), **figures}


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _over(score: float, upbound: float) -> float | None:
    return score / upbound if upbound else None


CHARACTER_COLUMNS = (
    "character", "series", "gender", "model", "references", "pictures", "score", "score_over_upbound", "upbound",
    "ref_self", "cosine", "ccip_diff", "best_of_m", "top1", "borderline_pairs", "held_out_pictures", "held_out_score",
)  # fmt: skip


def characters_csv(results: Sequence[CharacterResult], references: int) -> str:
    """One row a character and model; `references` pictures stood for each character."""
    return csv_text(CHARACTER_COLUMNS, (_character_row(r, model, references) for r in results for model in MODELS))


def _character_row(result: CharacterResult, model: str, references: int) -> tuple[Any, ...]:
    score, held_out = result.scores[model], result.held_out.get(model)
    return (
        result.reference.character, result.reference.series, result.reference.gender_tag, model,
        references, len(score.picture_scores), score.score, _over(score.score, result.upbound), result.upbound,
        result.ref_self, score.cosine, score.ccip_diff, score.best_of_m, score.top1, score.borderline,
        len(held_out.picture_scores) if held_out else 0, held_out.score if held_out else None,
    )  # fmt: skip


PICTURE_COLUMNS = ("model", "character", "number", "artist", "held_out", "seed", "score", "ccip_diff", "prompt")


def pictures_csv(jobs: Sequence[PictureJob], results: Sequence[CharacterResult]) -> str:
    """One row a picture, in the order of `jobs`: what was asked, and how it scored."""
    scores = {
        (model, result.reference.character, held_out): iter(zip(score.picture_scores, score.picture_diffs, strict=True))
        for result in results
        for held_out, by_model in ((False, result.scores), (True, result.held_out))
        for model, score in by_model.items()
    }
    rows = []
    for job in jobs:
        r = job.request
        score, ccip_diff = next(scores[job.model, r.character, r.held_out])
        rows.append((job.model, r.character, r.number, r.artist, int(r.held_out), r.seed, score, ccip_diff, r.prompt))
    return csv_text(PICTURE_COLUMNS, rows)

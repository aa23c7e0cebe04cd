"""reports/ccip.json, its tables and the record of what was scored."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ccip.pictured import PicturedCharacter
from ccip.results import CharacterResult, Evaluation
from ccip.statistics import Difference, Spread, mean, spearman, spreads_and_differences
from ccip.tables import csv_text, rounded


def summary(evaluation: Evaluation, samples: int, seed: int, trained: int | None) -> dict[str, Any]:
    """The content of reports/ccip.json: means over characters with 95 % intervals, floats rounded.

    Args:
        samples, seed: of the bootstrap; trained: how many of the reference pictures the last model was trained on, None
            where nobody knows it.
    """
    headline = _figures(evaluation, evaluation.headline, samples, seed)
    scores = [score for result in evaluation.results for score in result.scores.values()]
    content = {
        "characters": len(evaluation.results),
        "headline": evaluation.headline,
        **{key: headline[key] for key in ("models", "difference", "differences") if key in headline},
        "modes": {mode: _figures(evaluation, mode, samples, seed) for mode in evaluation.modes[1:]},
        "training_pictures": {"spearman": {model: _training_correlation(evaluation, model) for model in evaluation.models}},
        "references": {
            "upbound": mean([result.upbound for result in evaluation.results]),
            "ref_self": _mean_of_known(result.ref_self for result in evaluation.results),
            "pictures": sum(result.references for result in evaluation.results),
            "trained": trained,
        },
        "pairs": sum(r.references * len(s.picture_scores) for r in evaluation.results for s in r.scores.values()),
        "borderline_pairs": sum(len(score.borderline) for score in scores),
        "skipped": [{"character": one.character, "reason": one.reason} for one in evaluation.skipped],
    }
    # The threshold is an input, repeated exactly.
    return {**rounded(content), "threshold": evaluation.threshold}


def _figures(evaluation: Evaluation, mode: str, samples: int, seed: int) -> dict[str, Any]:
    """Models and their differences over the characters that have this mode; `pictures` is how many each model drew,
    of the first where that differs."""
    results = evaluation.having(mode)
    first, *others = evaluation.models
    spreads, differences = spreads_and_differences(
        {model: [result.scores[model, mode].score for result in results] for model in evaluation.models}, samples, seed
    )
    return {
        "characters": len(results),
        "pictures": sum(len(result.scores[first, mode].picture_scores) for result in results),
        "models": {model: _model_figures(results, model, mode, spreads[model]) for model in evaluation.models},
        "difference": difference_content(differences[others[-1]]) if others else None,
        **({"differences": {name: difference_content(differences[name]) for name in others}} if len(others) > 1 else {}),
    }


def _model_figures(results: Sequence[CharacterResult], model: str, mode: str, spread: Spread) -> dict[str, Any]:
    scores = [result.scores[model, mode] for result in results]
    return {
        "score": spread.mean,
        "ci95": spread.ci95,
        "median": spread.median,
        **{f"above_{round(100 * limit)}_percent": count for limit, count in spread.above.items()},
        "score_over_upbound": _mean_of_known(_over(r.scores[model, mode].score, r.upbound) for r in results),
        "best_of_m": mean([score.best_of_m for score in scores]),
        "ccip_diff": mean([score.ccip_diff for score in scores]),
        "cosine": mean([score.cosine for score in scores]),
        "top1": mean([score.top1 for score in scores]),
        "rank": mean([score.rank for score in scores]),
        "diversity": _mean_of_known(score.diversity for score in scores),
    }


def difference_content(difference: Difference) -> dict[str, Any]:
    """A paired difference as JSON."""
    return {
        "mean": difference.mean,
        "ci95": difference.ci95,
        "wins": difference.wins,
        "ties": difference.ties,
        "losses": difference.losses,
    }


def _training_correlation(evaluation: Evaluation, model: str) -> float | None:
    return spearman(
        [result.reference.training_pictures for result in evaluation.results],
        [result.scores[model, evaluation.headline].score for result in evaluation.results],
    )


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _over(score: float, upbound: float) -> float | None:
    return score / upbound if upbound else None


CHARACTER_COLUMNS = (
    "character", "series", "gender", "training_pictures", "model", "mode", "references", "pictures", "score",
    "score_over_upbound", "upbound", "ref_self", "cosine", "ccip_diff", "best_of_m", "top1", "rank", "diversity",
    "borderline_pairs",
)  # fmt: skip


def characters_csv(evaluation: Evaluation) -> str:
    """One row a character, model and mode."""
    keys = [(model, mode) for model in evaluation.models for mode in evaluation.modes]
    return csv_text(
        CHARACTER_COLUMNS,
        (_character_row(result, *key) for result in evaluation.results for key in keys if key in result.scores),
    )


def _character_row(result: CharacterResult, model: str, mode: str) -> tuple[Any, ...]:
    score, reference = result.scores[model, mode], result.reference
    return (
        reference.character, reference.series, reference.gender_tag, reference.training_pictures, model, mode,
        result.references, len(score.picture_scores), score.score, _over(score.score, result.upbound), result.upbound,
        result.ref_self, score.cosine, score.ccip_diff, score.best_of_m, score.top1, score.rank, score.diversity,
        len(score.borderline),
    )  # fmt: skip


BORDERLINE_COLUMNS = ("character", "model", "mode", "number", "reference", "difference")


def borderline_csv(evaluation: Evaluation, characters: Sequence[PicturedCharacter]) -> str:
    """One row a pair near the threshold: the picture's number, the reference's post id or file name, and the difference
    with 9 decimals."""
    by_name = {character.reference.character: character for character in characters}
    rows = []
    for result in evaluation.results:
        pictured = by_name[result.reference.character]
        for (model, mode), score in result.scores.items():
            numbers = pictured.pictures[model, mode].numbers
            for pair in score.borderline:
                where = (numbers[pair.picture], pictured.labels[pair.reference], f"{pair.difference:.9f}")
                rows.append((result.reference.character, model, mode, *where))
    return csv_text(BORDERLINE_COLUMNS, rows)


def run_record(
    evaluation: Evaluation,
    encoder: Mapping[str, str],
    references: Mapping[str, str],
    requests_sha256: str | None,
    ccip_json_sha256: str,
    characters_csv_sha256: str,
) -> dict[str, Any]:
    """The content of ccip_run.json: what was scored, so that results of two runs can be told to be comparable.

    Args:
        encoder: {file: sha256} of the CCIP folder; references: see `reference_digests`; requests_sha256: of what every model
            was asked for, None where nobody knows it; ccip_json_sha256, characters_csv_sha256: of the run's other files.
    """
    return {
        "encoder": dict(encoder),
        "threshold": evaluation.threshold,
        "references": dict(references),
        "requests": requests_sha256,
        "ccip_json": ccip_json_sha256,
        "characters_csv": characters_csv_sha256,
        "models": list(evaluation.models),
        "headline": evaluation.headline,
    }

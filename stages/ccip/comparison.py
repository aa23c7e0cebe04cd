"""Two earlier results, character by character, without scoring anything again."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from repro.errors import StageError, first_problem
from repro.hashing import sha256_file

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ccip.encoder import FEATURE_MODEL
from ccip.statistics import Difference, mean, spreads_and_differences
from ccip.summary import difference_content
from ccip.tables import csv_text, rounded


class _Record(BaseModel):
    """ccip_run.json, as far as a comparison needs it."""

    model_config = ConfigDict(extra="ignore", strict=True)
    encoder: dict[str, str]
    threshold: float
    references: dict[str, str]
    requests: str | None
    ccip_json: str
    characters_csv: str
    models: Annotated[list[str], Field(min_length=1)]
    headline: str


@dataclass(frozen=True)
class EarlierResult:
    """One model of an earlier run: its scores by character in the run's headline mode."""

    path: Path
    model: str
    record: _Record
    scores: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Two models of two earlier runs over the characters that both scored by the same reference pictures.

    rows: (character, score before, score after); only_before, only_after: characters that one of them lacks;
    other_references: characters of both whose reference pictures differ, which are left out; same_requests: whether both
    were asked for the same pictures, None where nobody knows it.
    """

    before: EarlierResult
    after: EarlierResult
    rows: tuple[tuple[str, float, float], ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    other_references: tuple[str, ...]
    same_requests: bool | None
    difference: Difference


def read_result(path: Path, model: str | None) -> EarlierResult:
    """A model of a run whose ccip.json is `path`, with its `_characters.csv` and `_run.json` beside it; the run's last
    model if none is named.

    Raises:
        StageError: a file is missing, is no such file or not of this run, or the run has no such model.
    """
    path = Path(path)
    record_path, table_path = (path.with_name(f"{path.stem}_{name}") for name in ("run.json", "characters.csv"))
    for file in (path, record_path, table_path):
        if not file.is_file():
            raise StageError(f"{file}: no such file; a result is a ccip.json with its _run.json and _characters.csv beside it")
    try:
        record = _Record.model_validate_json(record_path.read_bytes())
    except ValidationError as error:
        raise StageError(f"{record_path}: {first_problem(error)}; expected what evaluate_ccip.py writes") from None
    for file, digest in ((path, record.ccip_json), (table_path, record.characters_csv)):
        if sha256_file(file) != digest:
            raise StageError(f"{file}: not the file that {record_path.name} names; take all files of one run")
    chosen = record.models[-1] if model is None else model
    if chosen not in record.models:
        raise StageError(f"{path}: no model '{chosen}' in it; it has {', '.join(record.models)}")
    scores = _scores(table_path, chosen, record.headline)
    unknown = sorted(scores.keys() - record.references.keys())
    if unknown:
        raise StageError(f"{record_path}: no references of '{unknown[0]}'; expected what evaluate_ccip.py writes")
    return EarlierResult(path, chosen, record, scores)


def _scores(table: Path, model: str, mode: str) -> dict[str, float]:
    """{character: score}; the table's rounding is undone, since a score is a count of pairs over all pairs."""
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"), newline=""))
    scores = {}
    for row in rows:
        if (row["model"], row["mode"]) == (model, mode):
            pairs = int(row["references"]) * int(row["pictures"])
            scores[row["character"]] = round(float(row["score"]) * pairs) / pairs
    return scores


def compare(before: EarlierResult, after: EarlierResult, samples: int, seed: int) -> Comparison:
    """The paired difference over the characters of both whose reference pictures are the same.

    Args:
        samples, seed: of the bootstrap.

    Raises:
        StageError: another encoder, threshold or headline mode, or no character in both by the same reference pictures.
    """
    _refuse_other_measure(before, after)
    common = sorted(before.scores.keys() & after.scores.keys())
    both = [name for name in common if before.record.references[name] == after.record.references[name]]
    others = [name for name in common if before.record.references[name] != after.record.references[name]]
    if not both:
        why = f"the reference pictures of all {len(common)} characters of both differ" if common else "no character is in both"
        raise StageError(f"{before.path}, {after.path}: {why}, so their scores cannot be compared")
    columns = {side: [result.scores[name] for name in both] for side, result in (("before", before), ("after", after))}
    _, differences = spreads_and_differences(columns, samples, seed)
    requests = before.record.requests, after.record.requests
    return Comparison(
        before=before,
        after=after,
        rows=tuple(zip(both, columns["before"], columns["after"], strict=True)),
        only_before=tuple(sorted(before.scores.keys() - after.scores.keys())),
        only_after=tuple(sorted(after.scores.keys() - before.scores.keys())),
        other_references=tuple(others),
        same_requests=None if None in requests else requests[0] == requests[1],
        difference=differences["after"],
    )


def _refuse_other_measure(before: EarlierResult, after: EarlierResult) -> None:
    for what, values in (
        ("the encoder", [one.record.encoder.get(FEATURE_MODEL) for one in (before, after)]),
        ("the threshold", [one.record.threshold for one in (before, after)]),
        ("the mode of their scores", [one.record.headline for one in (before, after)]),
    ):
        if values[0] != values[1]:
            raise StageError(
                f"{before.path} and {after.path} differ in {what} ({values[0]}, {values[1]}), so their scores cannot be"
                " compared; score both with the same"
            )


def comparison_content(comparison: Comparison) -> dict[str, Any]:
    """The content of comparison.json, floats rounded, the threshold exact."""
    before, after = ([row[column] for row in comparison.rows] for column in (1, 2))
    content = {
        "characters": len(comparison.rows),
        "before": _side(comparison.before, before),
        "after": _side(comparison.after, after),
        "difference": difference_content(comparison.difference),
        "only_before": list(comparison.only_before),
        "only_after": list(comparison.only_after),
        "other_references": list(comparison.other_references),
        "same_requests": comparison.same_requests,
    }
    return {**rounded(content), "threshold": comparison.before.record.threshold}


def _side(result: EarlierResult, scores: Sequence[float]) -> dict[str, Any]:
    return {"model": result.model, "mode": result.record.headline, "score": mean(scores)}


def comparison_csv(comparison: Comparison) -> str:
    """One row a character of both, by name."""
    rows = ((name, before, after, after - before) for name, before, after in comparison.rows)
    return csv_text(("character", "before", "after", "change"), rows)

"""Figures as text: rounded, so that a report says no more than it knows, and byte-stable."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

DECIMALS = 6


def rounded(value: Any) -> Any:
    """The value with all floats inside rounded to `DECIMALS`; tuples become lists, -0.0 becomes 0.0."""
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """CSV with rounded floats, empty cells for None, one newline a row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rounded(list(row)) for row in rows)
    return buffer.getvalue()

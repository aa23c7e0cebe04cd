"""Nested parameters as one flat table, to be held against another."""

from collections.abc import Iterator, Mapping
from typing import Any


def dotted_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of each leaf, in order; lists and empty sections are values."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from dotted_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

"""How many posts the ranges of a selection give, before conditions, caps and the filter take some out."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.params import IdRange, Params


@dataclass(frozen=True)
class RangePosts:
    """Posts that a range chooses from (None: not known, of a folder) and how many different ones it is expected to give;
    `counted` in the database, or else as many as there are ids."""

    name: str
    available: int | None
    chosen: int
    counted: bool


def expected_posts(params: Params) -> list[RangePosts]:
    """One entry a range, in the recipe's order.

    Raises:
        StageError: the database is there and cannot be read.
    """
    return [_expected(params, r) for r in params.select.ranges]


def _expected(params: Params, r: IdRange) -> RangePosts:
    if r.folder is not None:
        return RangePosts(f"folder {r.folder}", None, r.take or 0, False)
    name = f"ids {r.first:,} to {r.last:,}"
    available = _count(Path(params.ingest.database), r.first, r.last)
    counted = available is not None
    if available is None:
        available = r.last - r.first + 1
    if r.take is None or not available:
        return RangePosts(name, available, available, counted)
    if params.select.draw == "replay":
        return RangePosts(name, available, different_of_draws(available, r.take), counted)
    return RangePosts(name, available, min(available, r.take), counted)


def different_of_draws(population: int, draws: int) -> int:
    """Expected number of different ones among so many draws with replacement."""
    return round(population * (1.0 - (1.0 - 1.0 / population) ** draws))


def _count(database: Path, first: int, last: int) -> int | None:
    """Posts with these ids, or None where there is no SQLite file (yet)."""
    if not database.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM post WHERE id BETWEEN ? AND ?", (first, last)).fetchone()[0]
    except sqlite3.Error as error:
        raise StageError(f"{database}: cannot be read as a booru database ({error}); put ingest.database right") from None

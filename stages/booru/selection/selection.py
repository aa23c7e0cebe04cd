"""Which posts are trained on: ranges of ids, conditions, caps and draws, with a reason for every post left out.

The metadata is read one shard at a time and only in the columns that the conditions ask for. What
is kept of a post is its id, its range and its reason, 11 bytes; with drawing and the ledger it comes
to some 35 bytes a post at the largest, and caps need what `booru.selection.caps` says (8 million posts: 550 MB
in all, 600 MB with both caps).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.params import FIRST_FOLDER_ID, IdRange, Select
from repro.randomness import seed_for

import numpy as np
import polars as pl

from booru.selection import conditions
from booru.selection.caps import TagCap
from booru.selection.conditions import Condition, conditions_of
from booru.selection.draws import keyed_draw, keyed_order
from booru.selection.replay import replayed_draws
from booru.shards import numbered_frames

SELECTED = "selected"
OUTSIDE = "outside the ranges"
OVER_CHARACTER = "over the cap of a character"
OVER_ARTIST = "over the cap of an artist"
NOT_DRAWN = "not drawn"
# The order in which reasons are asked; a post's code is the place of its reason in here.
REASONS = (OUTSIDE, *conditions.REASONS, OVER_CHARACTER, OVER_ARTIST, NOT_DRAWN, SELECTED)
CODE = {reason: np.int8(code) for code, reason in enumerate(REASONS)}


@dataclass
class Selection:
    """All posts of the metadata, ascending by id, and what became of them.

    Attributes:
        ids: i64; reasons: i8, places in `REASONS`; ranges: i16, place in the parameters' list of
            ranges, -1 outside them all.
        shard_sizes: number of posts of each shard, in order.
        figures: for each range its bounds and counts, see `_range_figures`; filled while drawing.
    """

    ids: np.ndarray
    reasons: np.ndarray
    ranges: np.ndarray
    shard_sizes: list[int]
    figures: list[dict[str, Any]]

    def chosen_by_shard(self) -> Iterator[np.ndarray]:
        """For each shard the mask of its chosen posts."""
        yield from np.split(self.reasons == CODE[SELECTED], np.cumsum(self.shard_sizes)[:-1])

    def counts(self) -> dict[str, int]:
        """{reason: number of posts}, in the order of `REASONS`."""
        return dict(zip(REASONS, np.bincount(self.reasons, minlength=len(REASONS)).tolist(), strict=True))

    def ledger(self) -> pl.DataFrame:
        """id and reason of every post, in id order."""
        return pl.DataFrame({"id": self.ids, "reason": pl.Series(REASONS).gather(self.reasons)})


def select(files: list[Path], settings: Select, tags: pl.DataFrame, seed: int) -> Selection:
    """Choose posts from the shards of a metadata folder.

    Args:
        files: the shards in the order of their ids.
        tags: the tag table.

    Raises:
        StageError: a tag that the metadata does not have, a range that cannot give what is to be taken
            or a folder without pictures, a shard without a column or out of order, nothing selected.
    """
    asked = conditions_of(settings, tags, "select")
    caps = _caps(settings, tags)
    selection = _survey(files, settings.ranges, asked, caps)
    _refuse_unknown_folder(files, settings.ranges, selection)
    _apply_caps(selection, caps, seed)
    if settings.draw == "replay":
        _replay(selection, settings.ranges, seed)
    else:
        _draw(selection, settings.ranges, seed)
    _refuse_empty(selection)
    return selection


def _caps(settings: Select, tags: pl.DataFrame) -> dict[str, TagCap]:
    """{reason: cap} of the caps that are set."""
    asked = {
        OVER_CHARACTER: ("character", settings.max_per_character),
        OVER_ARTIST: ("artist", settings.max_per_artist),
    }
    return {reason: TagCap(tags, tag_type, cap) for reason, (tag_type, cap) in asked.items() if cap is not None}


def _survey(files: list[Path], ranges: list[IdRange], asked: list[Condition], caps: dict[str, TagCap]) -> Selection:
    """Read all shards: range and first reason of each post, caps told of those that meet all conditions."""
    columns = {"id", *(condition.column for condition in asked)}
    if caps:
        columns.add("tags")
    if any(r.folder is not None for r in ranges):
        columns.add("source")
    _refuse_missing_columns(files, columns)
    ids, reasons, in_ranges = [], [], []
    start = 0
    for _, posts in numbered_frames(files, sorted(columns)):
        ids.append(posts["id"].to_numpy())
        in_ranges.append(_range_of(posts, ranges))
        reasons.append(_first_reasons(posts, in_ranges[-1], asked))
        matching = np.flatnonzero(reasons[-1] == CODE[SELECTED])
        for cap in caps.values():
            cap.add(start + matching, posts["tags"].gather(matching))
        start += posts.height
    sizes = [len(part) for part in ids]
    selection = Selection(np.concatenate(ids), np.concatenate(reasons), np.concatenate(in_ranges), sizes, [])
    if (selection.ids[1:] <= selection.ids[:-1]).any():
        raise StageError(f"{files[0].parent}: posts are not in the order of their ids; make it again with ingest_posts.py")
    return selection


def _refuse_missing_columns(files: list[Path], columns: set[str]) -> None:
    for file in files:
        if missing := sorted(columns - pl.read_parquet_schema(file).keys()):
            raise StageError(f"{file}: no column {', '.join(missing)}; make the folder again with ingest_posts.py")


def _refuse_unknown_folder(files: list[Path], ranges: list[IdRange], selection: Selection) -> None:
    for i, r in enumerate(ranges):
        if r.folder is not None and not (selection.ranges == i).any():
            sources = pl.scan_parquet(files).filter(pl.col("id") >= FIRST_FOLDER_ID).select(pl.col("source").unique().sort())
            folders = ", ".join(sources.collect(engine="in-memory").to_series()) or "none"
            raise StageError(
                f"select.ranges: the metadata has no picture of folder {r.folder}; its folders are: {folders}."
                " index_images.py and ingest take in those of the image root"
            )


def _range_of(posts: pl.DataFrame, ranges: list[IdRange]) -> np.ndarray:
    """By post the place (i16) of its range, -1 outside them all."""
    ids = posts["id"].to_numpy()
    place = np.full(len(ids), -1, dtype=np.int16)
    for i, r in enumerate(ranges):
        if r.folder is None:
            place[np.searchsorted(ids, r.first) : np.searchsorted(ids, r.last, side="right")] = i
        elif len(ids) and ids[-1] >= FIRST_FOLDER_ID:
            place[(ids >= FIRST_FOLDER_ID) & (posts["source"] == r.folder).to_numpy()] = i
    return place


def _first_reasons(posts: pl.DataFrame, in_ranges: np.ndarray, asked: list[Condition]) -> np.ndarray:
    """By post the code (i8) of the first reason that holds, that of SELECTED where none does."""
    reasons = np.where(in_ranges < 0, CODE[OUTSIDE], CODE[SELECTED])
    for condition in asked:
        if (reasons == CODE[OUTSIDE]).all():
            break
        reasons[(reasons == CODE[SELECTED]) & ~condition.met_by(posts)] = CODE[condition.reason]
    return reasons


def _apply_caps(selection: Selection, caps: dict[str, TagCap], seed: int) -> None:
    """Leave out what is over a cap, all ranges together."""
    if not caps:
        return
    order = keyed_order(selection.ids, seed_for(seed, "select")).astype(np.int32)
    for reason, cap in caps.items():
        selection.reasons[cap.over(order) & (selection.reasons == CODE[SELECTED])] = CODE[reason]


def _draw(selection: Selection, ranges: list[IdRange], seed: int) -> None:
    """In each range take, by their keyed order, among the posts that nothing has left out."""
    key = seed_for(seed, "select")
    for i, r in enumerate(ranges):
        figures = _range_figures(selection, i, r)
        members = _members(selection, i)
        if r.take is not None:
            if len(members) < r.take:
                _refuse_short_range(r, figures, len(members))
            _keep(selection, members, keyed_draw(selection.ids[members], r.take, key))
        selection.figures.append(figures | {"taken": len(_members(selection, i))})


def _replay(selection: Selection, ranges: list[IdRange], seed: int) -> None:
    """In the ranges as listed, draw as the reference did: one stream, with replacement, from all posts of the range."""
    stream = random.Random(seed)
    for i, r in enumerate(ranges):
        figures = _range_figures(selection, i, r)
        members = _members(selection, i)
        if r.take is not None:
            if not len(members):
                _refuse_short_range(r, figures, 0)
            _keep(selection, members, replayed_draws(stream, len(members), r.take))
            figures |= {"draws": r.take, "distinct": len(_members(selection, i))}
        selection.figures.append(figures | {"taken": len(_members(selection, i))})


def _members(selection: Selection, place: int) -> np.ndarray:
    """Numbers (i64, ascending) of a range's posts that nothing has left out yet."""
    return np.flatnonzero((selection.ranges == place) & (selection.reasons == CODE[SELECTED]))


def _keep(selection: Selection, members: np.ndarray, drawn: np.ndarray) -> None:
    """Of a range's members keep those at the places `drawn`, which may have doubles."""
    selection.reasons[members] = CODE[NOT_DRAWN]
    selection.reasons[members[drawn]] = CODE[SELECTED]


def _range_figures(selection: Selection, place: int, r: IdRange) -> dict[str, Any]:
    """Of one range, before its draw: what it is, how many posts it has, how many meet the conditions."""
    reasons = selection.reasons[selection.ranges == place]
    bounds = {"folder": r.folder} if r.folder is not None else {"first": r.first, "last": r.last}
    return bounds | {"posts": len(reasons), "matching": int((reasons >= CODE[OVER_CHARACTER]).sum())}


def _refuse_short_range(r: IdRange, figures: dict[str, Any], left: int) -> None:
    where = f"ids {r.first}..{r.last}" if r.folder is None else f"folder {r.folder}"
    met = "" if left == figures["posts"] else f", and {left} of them within the conditions and caps"
    raise StageError(
        f"select.ranges: {r.take} posts are to be taken from {where}, but the metadata has {figures['posts']} there{met};"
        " take fewer, or null for all"
    )


def _refuse_empty(selection: Selection) -> None:
    counts = selection.counts()
    if not counts[SELECTED]:
        worst = max(REASONS, key=lambda reason: counts[reason])
        raise StageError(
            f"select: none of the metadata's {len(selection.ids)} posts is selected; '{worst}' left out the most"
            f" ({counts[worst]}); look at the select section of the parameters"
        )

"""Near-duplicates of a character: candidates that show what the model has learned, or what another candidate shows.

The filter keeps one of several near-duplicates for training, so that the others are the very posts that look unseen. The
bounds are the filter's (booru/images/near_duplicates.py); pictures are compared within a character.
"""

from collections.abc import Iterator

from repro.params import NearDuplicates

import numpy as np
import polars as pl

from booru.images.near_duplicates import SCHEMA, STAYS, drop_in_order, partners, ranked_pictures

HASHES = [name for name in SCHEMA if name != "id"]
# Pictures that are compared at once, some 150 MB: as many characters as fit, at least one.
BATCH = 500_000
_RIGHT_BITS = np.uint64(32)


def without_near_duplicates(found: pl.DataFrame, trained: pl.DataFrame, bounds: NearDuplicates) -> pl.DataFrame:
    """The candidates without those that have a near-duplicate among the character's trained pictures, or one among its
    candidates that stays instead: the largest does, of equals that of the lowest id.

    Args:
        found: id (ascending), character (i32) and HASHES of the candidates; trained: the same without id of trained pictures.
    """
    found, trained = found.sort("character", "id"), trained.sort("character", maintain_order=True)
    kept = [found.clear()]
    for first, last in _batches(found["character"], trained["character"]):
        inside = pl.col("character").is_between(first, last)
        kept.append(_distinct(found.filter(inside), trained.filter(inside), bounds))
    return pl.concat(kept).sort("id")


def _batches(*characters: pl.Series) -> Iterator[tuple[int, int]]:
    """First and last character of each run of characters that together have up to BATCH pictures."""
    counts = pl.concat(list(characters)).value_counts().sort("character")
    first, pictures, last = None, 0, None
    for character, count in counts.rows():
        if first is not None and pictures + count > BATCH:
            yield first, last
            first, pictures = None, 0
        first, pictures, last = character if first is None else first, pictures + count, character
    if first is not None:
        yield first, last


def _distinct(found: pl.DataFrame, trained: pl.DataFrame, bounds: NearDuplicates) -> pl.DataFrame:
    columns = ["character", *HASHES]
    pictures = pl.concat([found.select(columns), trained.select(columns)])
    ranked = ranked_pictures(pictures, bounds.max_dhash, bounds.max_phash, bounds.max_aspect)
    character, candidate = pictures["character"].to_numpy()[ranked.row], ranked.row < found.height
    learned = np.zeros(len(ranked.row), dtype=bool)
    among_candidates = [np.empty(0, dtype=np.uint64)]
    for left, right in partners(ranked, np.arange(len(ranked.row))):
        same = character[left] == character[right]
        left, right = left[same], right[same]
        learned[left[candidate[left] & ~candidate[right]]] = True
        learned[right[candidate[right] & ~candidate[left]]] = True
        both = candidate[left] & candidate[right]
        among_candidates.append(right[both].astype(np.uint64) << _RIGHT_BITS | left[both].astype(np.uint64))
    pairs = np.sort(np.concatenate(among_candidates))
    left, right = pairs & np.uint64((1 << 32) - 1), pairs >> _RIGHT_BITS
    keeper = np.full(len(ranked.row), STAYS)
    drop_in_order(pairs[~(learned[left] | learned[right])], keeper)
    stays = candidate & ~learned & (keeper == STAYS)
    return found[np.sort(ranked.row[stays])]

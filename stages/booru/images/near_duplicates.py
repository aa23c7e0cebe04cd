"""Which pictures are near-duplicates of others, and which one of them stays.

Two pictures are partners when their dhashes, their phashes and their aspect ratios are all close
(`booru.images.image_hashes`; facts/data.md section 5 has the recall of such bounds). Pictures are gone through from
the largest area to the smallest, of equal areas the lowest id first. One is dropped when a partner
before it stays. So nothing is dropped for the sake of a picture that is itself dropped, and a chain of small
changes does not merge its ends. (czkawka 0.1.2 grouped the same pictures otherwise at each of four runs.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import polars as pl

from booru.images.hamming import BLOCK_COLUMNS, BLOCK_ROWS, Pairs, close_in_block, close_in_blocks, close_pairs

SCHEMA = {"id": pl.Int64, "dhash": pl.UInt64, "phash": pl.Binary, "width": pl.Int32, "height": pl.Int32}
PHASH_WORDS = 4
STAYS = -1
# Pairs that are held at once, in 64 MiB. All pairs of 4096 pictures fit, so that halving ends there.
MOST_PAIRS = 1 << 23
# Pairs of members of equal dhashes that are spread out at once, and from when on they are compared in blocks instead.
PORTION = 1 << 18
LARGE_GROUPS = 1 << 10


@dataclass(frozen=True)
class Pictures:
    """Pictures by rank, the order in which they are gone through.

    row: i64 [n] place in the input; dhash: u64 [n]; phash: u64 [n, 4]; width, height: i32 [n], pixels;
    whole: the number type in which aspect ratios are compared, i64 or, where that could overflow, object.
    max_dhash, max_phash, max_aspect: the bounds for partners.
    """

    row: np.ndarray
    dhash: np.ndarray
    phash: np.ndarray
    width: np.ndarray
    height: np.ndarray
    whole: type
    max_dhash: int
    max_phash: int
    max_aspect: Fraction


def check(images: pl.DataFrame, max_dhash: int, max_phash: int, max_aspect: float) -> None:
    """Raises:
    ValueError: the frame or a bound is not as `near_duplicates` describes it."""
    if not (0 <= max_dhash < 64 and 0 <= max_phash <= 256 and max_aspect >= 1):
        raise ValueError(f"bounds out of range: dhash {max_dhash}, phash {max_phash}, aspect {max_aspect}")
    if {name: images.schema.get(name) for name in SCHEMA} != SCHEMA or any(images[name].has_nulls() for name in SCHEMA):
        raise ValueError(f"expected the columns {SCHEMA} without nulls, found {dict(images.schema)}")
    if (images["id"].diff().drop_nulls() <= 0).any():
        raise ValueError("ids are not ascending and unique")
    if (images["phash"].bin.size() != 8 * PHASH_WORDS).any() or (images["width"] < 1).any() or (images["height"] < 1).any():
        raise ValueError("a phash is not of 32 bytes, or a size is below 1; unreadable pictures do not belong here")


def ranked_pictures(images: pl.DataFrame, max_dhash: int, max_phash: int, max_aspect: float) -> Pictures:
    """The pictures as arrays in the order of their ranks."""
    width, height = images["width"].to_numpy(), images["height"].to_numpy()
    row = np.argsort(-(width.astype(np.int64) * height), kind="stable")
    phash = np.empty((len(row), PHASH_WORDS), dtype=np.uint64)
    for word in range(PHASH_WORDS):
        column = images["phash"].bin.slice(8 * word, 8).bin.reinterpret(dtype=pl.UInt64, endianness="little")
        phash[:, word] = column.to_numpy()[row]
    ratio = Fraction(str(max_aspect))  # 1.05 is 21/20, not the float's 53 binary digits
    largest = int(width.max(initial=0)) * int(height.max(initial=0)) * ratio.numerator
    whole = np.int64 if largest < 1 << 63 else object
    dhash = images["dhash"].to_numpy()[row]
    return Pictures(row, dhash, phash, width[row], height[row], whole, max_dhash, max_phash, ratio)


def reduced_aspects(pictures: Pictures, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Width and height of each picture without their common divisor; i32 [n] each."""
    width, height = pictures.width[ranks], pictures.height[ranks]
    divisor = np.gcd(width, height)
    return width // divisor, height // divisor


def first_of_equals(pictures: Pictures) -> np.ndarray:
    """For each rank the lowest rank with the same hashes and aspect ratio; i64 [n].

    Such pictures have the same partners, and are each other's: what becomes of the first decides for all.
    """
    first = np.arange(len(pictures.row))
    by_dhash = np.argsort(pictures.dhash, kind="stable")
    ordered = pictures.dhash[by_dhash]
    same = np.zeros(len(ordered) + 1, dtype=bool)
    same[1:-1] = ordered[1:] == ordered[:-1]
    shared = by_dhash[same[1:] | same[:-1]]
    if not len(shared):
        return first
    keys = [pictures.dhash[shared], *pictures.phash[shared].T, *reduced_aspects(pictures, shared)]
    order = np.lexsort([shared, *keys])
    changes = np.zeros(len(order), dtype=bool)
    changes[0] = True
    for key in keys:
        changes[1:] |= key[order[1:]] != key[order[:-1]]
    first[shared[order]] = shared[order][changes][np.cumsum(changes) - 1]
    return first


def similar_aspects(pictures: Pictures, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Is the quotient of the aspect ratios at most max_aspect, either way round? Exact, without division."""
    ratio, whole = pictures.max_aspect, pictures.whole
    one = pictures.width[left].astype(whole) * pictures.height[right].astype(whole)
    other = pictures.width[right].astype(whole) * pictures.height[left].astype(whole)
    smaller, larger = np.minimum(one, other), np.maximum(one, other)
    return (larger * ratio.denominator <= smaller * ratio.numerator).astype(bool)


@dataclass(frozen=True)
class Groups:
    """Ranks of equal dhashes: values u64 [g], each with its members ranks[start : start + size]."""

    values: np.ndarray
    ranks: np.ndarray
    start: np.ndarray
    size: np.ndarray


def group_by_dhash(pictures: Pictures, ranks: np.ndarray) -> Groups:
    """Collapse equal dhashes."""
    dhash = pictures.dhash[ranks]
    order = np.argsort(dhash, kind="stable")
    dhash = dhash[order]
    start = np.concatenate([[0], np.flatnonzero(dhash[1:] != dhash[:-1]) + 1])
    return Groups(dhash[start], ranks[order], start, np.diff(start, append=len(ranks)))


def close_within_large_group(pictures: Pictures, groups: Groups, group: int) -> Iterator[Pairs]:
    members = groups.ranks[groups.start[group] :][: groups.size[group]]
    for left, right in close_in_blocks(pictures.phash[members], pictures.max_phash):
        yield members[left], members[right]


def close_between_large_groups(pictures: Pictures, groups: Groups, one: int, other: int) -> Iterator[Pairs]:
    left = groups.ranks[groups.start[one] :][: groups.size[one]]
    right = groups.ranks[groups.start[other] :][: groups.size[other]]
    for top in range(0, len(left), BLOCK_ROWS):
        for first in range(0, len(right), BLOCK_COLUMNS):
            rows, columns = left[top : top + BLOCK_ROWS], right[first : first + BLOCK_COLUMNS]
            i, j = close_in_block(pictures.phash[rows], pictures.phash[columns], pictures.max_phash)
            yield rows[i], columns[j]


def close_between_small_groups(pictures: Pictures, groups: Groups, one: np.ndarray, other: np.ndarray) -> Iterator[Pairs]:
    """Members of groups `one` and `other`, pair by pair; a group with itself gives each pair once."""
    counts = groups.size[one] * groups.size[other]
    filled = np.cumsum(counts)
    cuts = np.searchsorted(filled, np.arange(PORTION, filled[-1], PORTION))
    for one_part, other_part, count in zip(np.split(one, cuts), np.split(other, cuts), np.split(counts, cuts), strict=True):
        pair = np.repeat(np.arange(len(count)), count)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
        row, column = np.divmod(place, groups.size[other_part][pair])
        left = groups.ranks[groups.start[one_part][pair] + row]
        right = groups.ranks[groups.start[other_part][pair] + column]
        distance = np.bitwise_count(pictures.phash[left] ^ pictures.phash[right]).sum(axis=1, dtype=np.int64)
        close = (distance <= pictures.max_phash) & ((one_part != other_part)[pair] | (row < column))
        yield left[close], right[close]


def partner_groups(groups: Groups, max_dhash: int) -> Iterator[Pairs]:
    """Pairs of groups whose dhashes are close; each group of several pictures with itself, too."""
    several = np.flatnonzero(groups.size > 1)
    yield several, several
    yield from close_pairs(groups.values, max_dhash)


def close_hashes(pictures: Pictures, ranks: np.ndarray) -> Iterator[Pairs]:
    """Pairs of `ranks` whose dhashes and phashes are close, each once."""
    groups = group_by_dhash(pictures, ranks)
    for one, other in partner_groups(groups, pictures.max_dhash):
        large = groups.size[one] * groups.size[other] > LARGE_GROUPS
        if not large.all():
            yield from close_between_small_groups(pictures, groups, one[~large], other[~large])
        for a, b in zip(one[large].tolist(), other[large].tolist(), strict=True):
            if a == b:
                yield from close_within_large_group(pictures, groups, a)
            else:
                yield from close_between_large_groups(pictures, groups, a, b)


def partners(pictures: Pictures, ranks: np.ndarray) -> Iterator[Pairs]:
    """All pairs of partners among `ranks` (i64, distinct), each once, the lower rank to the left."""
    for one, other in close_hashes(pictures, ranks):
        if not len(one):
            continue
        similar = similar_aspects(pictures, one, other)
        if similar.any():
            one, other = one[similar], other[similar]
            yield np.minimum(one, other), np.maximum(one, other)


def partners_if_few(pictures: Pictures, ranks: np.ndarray) -> np.ndarray | None:
    """All pairs of partners as u64 right << 32 | left, ascending; None where they are more than MOST_PAIRS."""
    portions, found = [], 0
    for left, right in partners(pictures, ranks):
        portions.append(right.astype(np.uint64) << np.uint64(32) | left.astype(np.uint64))
        found += len(left)
        if found > MOST_PAIRS:
            return None
    pairs = np.concatenate([np.empty(0, dtype=np.uint64), *portions])
    pairs.sort()
    return pairs


def drop_in_order(pairs: np.ndarray, keeper: np.ndarray) -> None:
    """Go through the pairs by right, then left rank; enter the first staying left one as the right one's keeper."""
    dropped = bytearray(len(keeper))
    for first in range(0, len(pairs), PORTION):
        part = pairs[first : first + PORTION]
        rights, lefts = (part >> np.uint64(32)).tolist(), (part & np.uint64(0xFFFFFFFF)).tolist()
        for left, right in zip(lefts, rights, strict=True):
            if not dropped[right] and not dropped[left]:
                dropped[right] = 1
                keeper[right] = left


def drop_partners_of(staying: np.ndarray, later: np.ndarray, pictures: Pictures, keeper: np.ndarray) -> None:
    """Enter for each of the `later` ranks its first partner among the `staying` ones, all of which come before."""
    border = later[0]
    first = np.full(len(keeper), len(keeper))
    for left, right in partners(pictures, np.concatenate([staying, later])):
        across = (left < border) & (right >= border)
        np.minimum.at(first, right[across], left[across])
    found = first < len(keeper)
    keeper[found] = first[found]


def settle(pictures: Pictures, ranks: np.ndarray, keeper: np.ndarray) -> None:
    """Enter into `keeper` (i64 by rank) what becomes of `ranks` (ascending), which have no staying partner before them.

    Where the partners are too many to hold, the first half is settled, then what it leaves of the second.
    """
    if not len(ranks):
        return
    pairs = partners_if_few(pictures, ranks)
    if pairs is not None:
        drop_in_order(pairs, keeper)
        return
    first, second = np.split(ranks, [len(ranks) // 2])
    settle(pictures, first, keeper)
    drop_partners_of(first[keeper[first] == STAYS], second, pictures, keeper)
    settle(pictures, second[keeper[second] == STAYS], keeper)


def near_duplicates(images: pl.DataFrame, max_dhash: int, max_phash: int, max_aspect: float) -> pl.DataFrame:
    """The pictures to drop: id, and kept, the id of the picture that stays instead; sorted by id.

    Exact for all pairs, and a function of the rows alone. Memory beside the input: about 100 bytes a picture
    (6 million: 1.5 GB for the whole process) and up to 0.3 GB of blocks and pairs, however alike the
    pictures are. Time: the join of `booru.images.hamming` over the distinct dhashes; then each pair of pictures
    whose dhashes are close is compared by phash: g^2 / 2 pairs for g pictures of one dhash, 3 x 10^8 a second
    and core. Pictures that agree in both hashes and the aspect ratio count as one.

    Args:
        images: id i64 (ascending, unique), dhash u64, phash binary of 32 bytes, width and height i32, at least 1.
        max_dhash: bits in which partners' dhashes may differ (of 64).
        max_phash: bits in which partners' phashes may differ (of 256).
        max_aspect: largest quotient of partners' aspect ratios, at least 1; read as the decimal that it prints as.

    Raises:
        ValueError: the frame or a bound is not as described.
    """
    check(images, max_dhash, max_phash, max_aspect)
    pictures = ranked_pictures(images, max_dhash, max_phash, max_aspect)
    first = first_of_equals(pictures)
    ranks = np.arange(len(first))
    keeper = np.full(len(first), STAYS)
    settle(pictures, ranks[first == ranks], keeper)
    kept = np.where(keeper[first] == STAYS, first, keeper[first])
    ids = images["id"].to_numpy()
    dropped = np.flatnonzero(kept != ranks)
    rows, kept_rows = pictures.row[dropped], pictures.row[kept[dropped]]
    return pl.DataFrame({"id": ids[rows], "kept": ids[kept_rows]}, schema={"id": pl.Int64, "kept": pl.Int64}).sort("id")

"""Near-duplicates: every answer against all pairs compared by hand."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from booru.images.near_duplicates import SCHEMA, near_duplicates

WORDS = ["dhash", "phash", "width", "height"]


def draws(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=list(key)))


def frame(rows: list[tuple[int, int, int, int]], ids: list[int] | None = None) -> pl.DataFrame:
    """Rows of (dhash, phash as a whole number, width, height); ids from 1 where none are given."""
    columns = {name: [row[i] for row in rows] for i, name in enumerate(WORDS)}
    columns["phash"] = [phash.to_bytes(32, "big") for phash in columns["phash"]]
    return pl.DataFrame({"id": ids or list(range(1, len(rows) + 1)), **columns}, schema=SCHEMA)


def by_hand(images: pl.DataFrame, max_dhash: int, max_phash: int, max_aspect: str) -> list[tuple[int, int]]:
    """The rule word for word, over whole numbers and fractions."""
    stays, dropped = [], []
    rows = [
        (row["id"], row["dhash"], int.from_bytes(row["phash"], "big"), row["width"], row["height"]) for row in images.to_dicts()
    ]
    for row in sorted(rows, key=lambda row: (-row[3] * row[4], row[0])):
        for other in stays:
            aspects = sorted([Fraction(row[3], row[4]), Fraction(other[3], other[4])])
            near = (row[1] ^ other[1]).bit_count() <= max_dhash and (row[2] ^ other[2]).bit_count() <= max_phash
            if near and aspects[1] / aspects[0] <= Fraction(max_aspect):
                dropped.append((row[0], other[0]))
                break
        else:
            stays.append(row)
    return sorted(dropped)


def flipped(generator: np.random.Generator, value: int, bits: int, most: int) -> int:
    for bit in generator.permutation(bits)[: int(generator.integers(0, most + 1))].tolist():
        value ^= 1 << bit
    return value


def mixed_rows(generator: np.random.Generator, count: int) -> list[tuple[int, int, int, int]]:
    """Pictures of their own, clusters of versions, and many with a hot dhash whose low half is all zero."""
    rows: list[tuple[int, int, int, int]] = []
    for _ in range(count):
        kind = int(generator.integers(0, 4))
        dhash, phash = int.from_bytes(generator.bytes(8)), int.from_bytes(generator.bytes(32))
        width, height = (int(side) for side in generator.integers(20, 40, 2) * 10)
        if kind and rows:
            dhash_of, phash_of, width, height = rows[int(generator.integers(0, len(rows)))]
            dhash, phash = flipped(generator, dhash_of, 64, 4), flipped(generator, phash_of, 256, 30)
            width += int(generator.integers(-8, 9))
        elif generator.integers(0, 2):
            dhash = int(generator.integers(0, 2)) << 40
        rows.append((dhash, phash, width, height))
    return rows


@pytest.mark.parametrize("max_dhash", range(7))
def test_all_pairs_by_hand(max_dhash: int) -> None:
    for case in range(3):
        images = frame(mixed_rows(draws(max_dhash, case), 400))
        found = near_duplicates(images, max_dhash, 32, 1.05).rows()
        assert found == by_hand(images, max_dhash, 32, "1.05")
        assert found


def test_answers_do_not_depend_on_chunks_and_ids_only_break_ties() -> None:
    rows = mixed_rows(draws(1, 0), 300)
    images = frame(rows)
    found = near_duplicates(images, 4, 32, 1.05)
    chunked = pl.concat([images[:7], images[7:200], images[200:]], rechunk=False)
    assert near_duplicates(chunked, 4, 32, 1.05).equals(found)
    # Rows in another order, with areas that differ: the same pictures go.
    rows = [(dhash, phash, 100_000 + i, 100_000) for i, (dhash, phash, _, _) in enumerate(rows)]
    order = draws(2, 0).permutation(len(rows)).tolist()
    straight = near_duplicates(frame(rows), 4, 32, 1.05).rows()
    shuffled = near_duplicates(frame([rows[i] for i in order]), 4, 32, 1.05).rows()
    assert sorted((order[i - 1] + 1, order[kept - 1] + 1) for i, kept in shuffled) == straight
    assert straight


def test_a_chain_does_not_merge_its_ends() -> None:
    a, b, c, d = (((1 << 4 * i) - 1, 0, 100, 100) for i in range(4))
    assert near_duplicates(frame([a, b, c, d]), 4, 32, 1.05).rows() == [(2, 1), (4, 3)]
    # b first: it takes both its neighbours, and d stays.
    assert near_duplicates(frame([b, a, c, d]), 4, 32, 1.05).rows() == [(2, 1), (3, 1)]


def test_the_largest_area_stays_then_the_lowest_id() -> None:
    images = frame([(5, 9, 100, 100), (5, 9, 200, 200), (5, 9, 150, 150), (5, 9, 200, 200)], ids=[3, 10, 20, 30])
    assert near_duplicates(images, 4, 32, 1.05).rows() == [(3, 10), (20, 10), (30, 10)]


def test_kept_is_the_first_partner_that_stays() -> None:
    # 4 is near 2 and 3; 2 goes because of 1, which is not near 4.
    rows = [(0b0, 0, 100, 100), (0b1111, 0, 99, 99), (0b11111111 << 8, 0, 98, 98), (0b1111_1111, 0, 97, 97)]
    assert near_duplicates(frame(rows), 4, 256, 1.05).rows() == [(2, 1)]
    rows[2] = (0b1111_1111_1, 0, 98, 98)
    assert near_duplicates(frame(rows), 4, 256, 1.05).rows() == [(2, 1), (4, 3)]


def test_aspect_ratios_are_compared_exactly() -> None:
    square, just, beyond = (0, 0, 2000, 2000), (0, 0, 1050, 1000), (0, 0, 10501, 10000)
    assert near_duplicates(frame([square, just]), 0, 0, 1.05).rows() == [(2, 1)]
    assert near_duplicates(frame([(0, 0, 100, 105), (0, 0, 100, 100)]), 0, 0, 1.05).rows() == [(2, 1)]
    assert near_duplicates(frame([square, beyond]), 0, 0, 1.05).rows() == []
    # Beyond 64 bits.
    large = 2**31 - 1
    assert near_duplicates(frame([(0, 0, large, large), (0, 0, large, large - 1)]), 0, 0, 1.0).rows() == []
    assert near_duplicates(frame([(0, 0, large, large), (0, 0, large, large - 1)]), 0, 0, 1.0001).rows() == [(2, 1)]


def leaders(phash: np.ndarray, max_phash: int) -> list[tuple[int, int]]:
    """The rule for pictures of one dhash and size; phash u64 [n, 4]."""
    kept, dropped = np.empty(0, dtype=np.int64), []
    for i, value in enumerate(phash):
        near = kept[np.bitwise_count(phash[kept] ^ value).sum(axis=1) <= max_phash]
        if len(near):
            dropped.append((i, int(near[0])))
        else:
            kept = np.append(kept, i)
    return dropped


@pytest.mark.parametrize(("centres", "flips"), [(6000, 0), (40, 14), (1, 12)], ids=["strangers", "clusters", "all alike"])
def test_thousands_of_one_dhash(centres: int, flips: int) -> None:
    """All alike: 18 million pairs of partners, more than are held at once."""
    generator = draws(3, centres)
    count = 6000
    bits = generator.integers(0, 2, (centres, 256), dtype=np.uint8)[np.arange(count) % centres]
    for row in bits:
        row[generator.permutation(256)[:flips]] ^= 1
    packed = np.packbits(bits, axis=1)
    images = pl.DataFrame(
        {"id": range(count), "dhash": 0, "phash": [row.tobytes() for row in packed], "width": 50, "height": 50}
    ).cast(SCHEMA)
    assert near_duplicates(images, 4, 24, 1.05).rows() == leaders(packed.view(np.uint64), 24)


def test_equal_pictures_count_as_one() -> None:
    rows = [(1, 2, 30 + 10 * (i % 3), 30 + 10 * (i % 3)) for i in range(20_000)]
    assert near_duplicates(frame(rows), 4, 32, 1.05).rows() == [(i, 3) for i in range(1, 20_001) if i != 3]


def test_no_pictures_and_one() -> None:
    for rows in [[], [(1, 2, 3, 4)]]:
        found = near_duplicates(frame(rows), 4, 32, 1.05)
        assert found.rows() == []
        assert found.schema == {"id": pl.Int64, "kept": pl.Int64}


@pytest.mark.parametrize(
    ("images", "bounds", "text"),
    [
        (frame([(0, 0, 1, 1)] * 2, ids=[2, 1]), (4, 32, 1.05), "ascending"),
        (frame([(0, 0, 1, 1)] * 2, ids=[2, 2]), (4, 32, 1.05), "ascending"),
        (frame([(0, 0, 0, 0)]), (4, 32, 1.05), "below 1"),
        (frame([(0, 0, 1, 1)]).with_columns(phash=pl.lit(b"short")), (4, 32, 1.05), "32 bytes"),
        (frame([(0, 0, 1, 1)]).drop("width"), (4, 32, 1.05), "columns"),
        (frame([(0, 0, 1, 1)]), (64, 32, 1.05), "out of range"),
        (frame([(0, 0, 1, 1)]), (4, 32, 0.9), "out of range"),
    ],
)
def test_what_is_not_as_described_is_refused(images: pl.DataFrame, bounds: tuple[int, int, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        near_duplicates(images, *bounds)

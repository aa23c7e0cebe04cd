"""Near-duplicates among a character's candidates and of its trained pictures, by made-up hashes."""

from repro.params import NearDuplicates

import polars as pl
import pytest

from booru.images.near_duplicates import SCHEMA
from characters import near_duplicates
from characters.near_duplicates import without_near_duplicates

BOUNDS = NearDuplicates(max_dhash=4, max_phash=32, max_aspect=1.05)
# Hashes of pictures that are unlike each other; adding a few makes a near-duplicate of one.
A, B, C = 0, 0xFFFF << 8, 0xFFFF << 40


def pictures(*rows: tuple[int, int, int, int]) -> pl.DataFrame:
    """Of (id, character, dhash, side); the phash follows the dhash."""
    return pl.DataFrame(
        {
            "id": [row[0] for row in rows], "dhash": [row[2] for row in rows],
            "phash": [row[2].to_bytes(32, "little") for row in rows],
            "width": [row[3] for row in rows], "height": [row[3] for row in rows], "character": [row[1] for row in rows],
        },
        schema=SCHEMA | {"character": pl.Int32},
    )  # fmt: skip


def left(found: pl.DataFrame, trained: pl.DataFrame) -> list[int]:
    rows = without_near_duplicates(found, trained.drop("id"), BOUNDS)
    assert rows.columns == found.columns
    return rows["id"].to_list()


def test_a_near_duplicate_of_a_trained_picture_is_left_out_whichever_is_larger():
    found = pictures((1, 0, A + 1, 100), (2, 0, B + 1, 300), (3, 0, C, 100))
    assert left(found, pictures((9, 0, A, 200), (9, 0, B, 200))) == [3]
    assert left(found, pictures()) == [1, 2, 3]


def test_of_near_duplicate_candidates_the_largest_stays():
    found = pictures((1, 0, A, 100), (2, 0, A + 1, 300), (3, 0, A + 3, 300), (4, 0, B, 100))
    assert left(found, pictures()) == [2, 4]


def test_a_candidate_that_is_left_out_takes_no_other_along():
    # 2 is near to the trained picture and to 1, which is not near to the trained one.
    found = pictures((1, 0, A + 0b11_1111, 100), (2, 0, A + 0b1111, 300))
    assert left(found, pictures((9, 0, A, 100))) == [1]


def test_pictures_are_compared_within_a_character():
    found = pictures((1, 0, A, 100), (2, 1, A, 100), (3, 1, B, 100))
    assert left(found, pictures((9, 0, B, 100), (9, 2, A, 100))) == [1, 2, 3]


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch, batch: int):
    found = pictures(*((i, i % 3, [A, A + 1, B, C, C + 1][i % 5], 100 + i) for i in range(1, 16)))
    trained = pictures((9, 0, B, 100), (9, 1, C, 100))
    whole = left(found, trained)
    assert 3 < len(whole) < 15
    monkeypatch.setattr(near_duplicates, "BATCH", batch)
    assert left(found, trained) == whole
    assert list(near_duplicates._batches(found["character"])) == [(0, 0), (1, 1), (2, 2)]

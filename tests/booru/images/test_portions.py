"""How a list of images is divided, and what a change of the list changes."""

import hashlib
from pathlib import Path

import polars as pl

from booru.images.portions import LARGEST, PORTION, make_portions, portion_starts, unfinished


def images(ids: list[int]) -> pl.DataFrame:
    """Images in two buckets, sorted as the stage sorts them."""
    digests = [hashlib.sha256(str(i).encode()).hexdigest() for i in ids]
    schema = {"id": pl.Int64, "sha256": pl.String, "bucket": pl.Boolean}
    return pl.DataFrame({"id": ids, "sha256": digests, "bucket": [i % 5 == 0 for i in ids]}, schema).sort("bucket", "id")


def names(frame: pl.DataFrame, folder: Path) -> set[str]:
    return {p.output.name for p in make_portions(frame, folder, ".x", ["sha256", "bucket"], ["bucket"])}


def test_portions_cover_the_list_and_have_one_bucket(tmp_path: Path) -> None:
    frame = images(list(range(3000)))
    portions = make_portions(frame, tmp_path, ".x", ["sha256"], ["bucket"])
    assert [row for portion in portions for row in portion.rows()] == frame.to_dicts()
    assert all(len({row["bucket"] for row in portion.rows()}) == 1 for portion in portions)
    assert 0.7 * PORTION < frame.height / len(portions) < 1.4 * PORTION


def test_one_image_more_or_less_changes_one_or_two_portions(tmp_path: Path) -> None:
    ids = list(range(0, 4000, 2))
    before = names(images(ids), tmp_path / "a")
    for other in ([*ids, 1001], [*ids, 2005], [i for i in ids if i != 1500]):
        after = names(images(other), tmp_path / "b")
        assert 1 <= len(before - after) <= 2
        assert 1 <= len(after - before) <= 2


def test_names_hang_on_the_key_columns_alone(tmp_path: Path) -> None:
    frame = images(list(range(300)))
    renumbered = frame.with_columns(pl.col("id") + 10_000)
    assert names(frame, tmp_path / "a") == names(renumbered, tmp_path / "b")
    assert names(frame, tmp_path / "a").isdisjoint(names(frame.with_columns(bucket=~pl.col("bucket")), tmp_path / "c"))


def test_images_whose_digests_say_nothing_are_divided_too() -> None:
    """Copies of one picture, say, under ids of their own."""
    most = LARGEST * PORTION
    marked, unmarked = f"{PORTION:08x}" + "0" * 56, f"{1:08x}" + "0" * 56
    frame = pl.DataFrame({"sha256": [unmarked] * (2 * most + 3) + [marked] * 2})
    assert portion_starts(frame, []) == [0, most, 2 * most, 2 * most + 3, 2 * most + 4]


def test_a_portion_with_its_file_is_finished(tmp_path: Path) -> None:
    portions = make_portions(images(list(range(300))), tmp_path, ".x", ["sha256"])
    assert unfinished(portions) == portions
    portions[2].output.parent.mkdir(exist_ok=True)
    portions[2].output.touch()
    assert unfinished(portions) == [*portions[:2], *portions[3:]]


def test_an_empty_list_has_no_portions(tmp_path: Path) -> None:
    assert make_portions(images([]), tmp_path, ".x", ["sha256"], ["bucket"]) == []

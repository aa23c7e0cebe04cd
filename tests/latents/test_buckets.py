"""Bucket lists and choices, against sd-scripts' answers and at their limits."""

import json
from pathlib import Path

from repro.errors import StageError

import pytest

from latents.buckets import check_buckets, choose_bucket, make_buckets, place

SQUARE = (64, 64)


def answers(golden: Path, name: str) -> dict:
    return json.loads((golden / "train" / f"{name}.json").read_text())


def buckets_of(case: dict) -> list[tuple[int, int]]:
    return make_buckets(tuple(case["base"]), case["min"], case["max"], case["step"])


@pytest.mark.golden
@pytest.mark.parametrize("name", ["buckets_32", "buckets_64"])
def test_bucket_list(golden: Path, name: str) -> None:
    case = answers(golden, name)
    assert [list(bucket) for bucket in buckets_of(case)] == case["buckets_wh"]


@pytest.mark.golden
def test_bucket_lists_of_other_areas(golden: Path) -> None:
    for case in answers(golden, "buckets_other")["cases"]:
        assert [list(bucket) for bucket in buckets_of(case)] == case["buckets_wh"]


@pytest.mark.golden
@pytest.mark.parametrize("name", ["bucket_select_32", "bucket_select_64"])
def test_bucket_resized_size_and_crop(golden: Path, name: str) -> None:
    answer = answers(golden, name)
    buckets = buckets_of(answer)
    for case in answer["cases"]:
        placement = place(tuple(case["image"]), buckets)
        assert list(placement.bucket) == case["bucket"], case["image"]
        assert list(placement.resized) == case["resized"], case["image"]
        assert [placement.left, placement.top] == case["pixel_crop_left_top"], case["image"]


def test_sample_buckets() -> None:
    assert make_buckets(SQUARE, 48, 96, 16) == [(48, 80), (64, 64), (80, 48)]


def test_image_of_a_bucket_size_is_left_alone() -> None:
    placement = place((80, 48), make_buckets(SQUARE, 48, 96, 16))
    assert (placement.resized, placement.left, placement.top) == ((80, 48), 0, 0)


def test_first_of_equally_near_ratios_wins() -> None:
    assert choose_bucket((100, 100), [(40, 80), (60, 40)]) == (40, 80)


def test_the_bucket_is_always_covered() -> None:
    buckets = make_buckets(SQUARE, 48, 96, 16)
    for width in range(1, 200, 7):
        for height in range(1, 200, 11):
            placement = place((width, height), buckets)
            assert placement.left >= 0 and placement.top >= 0
            assert placement.left + placement.bucket[0] <= placement.resized[0]
            assert placement.top + placement.bucket[1] <= placement.resized[1]


def test_impossible_bucket_sizes() -> None:
    with pytest.raises(StageError, match="resolution gives no bucket: 8x8 is below one step of 16"):
        make_buckets((8, 8), 16, 32, 16)
    with pytest.raises(StageError, match="min_bucket_reso must be at least"):
        make_buckets(SQUARE, 8, 96, 16)
    with pytest.raises(StageError, match="bucket 48x80, but this base model needs multiples of 32"):
        check_buckets(make_buckets(SQUARE, 48, 96, 16), 32)

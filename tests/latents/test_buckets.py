"""Bucket lists and choices, against sd-scripts' answers and at their limits."""

import json
from pathlib import Path

from repro.errors import StageError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latents.buckets import check_buckets, choose_bucket, make_buckets, place, place_without_enlarging

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


@pytest.mark.golden
@pytest.mark.parametrize("name", ["bucket_select_32_noupscale", "bucket_select_64_noupscale"])
def test_bucket_resized_size_and_crop_without_enlarging(golden: Path, name: str) -> None:
    answer = answers(golden, name)
    area = answer["base"][0] * answer["base"][1]
    for case in answer["cases"]:
        placement = place_without_enlarging(tuple(case["image"]), area, answer["step"])
        if "error" in case:
            assert placement is None, case["image"]
            continue
        assert list(placement.bucket) == case["bucket"], case["image"]
        assert list(placement.resized) == case["resized"], case["image"]
        assert [placement.left, placement.top] == case["pixel_crop_left_top"], case["image"]


@pytest.mark.golden
def test_the_crop_that_training_is_told_is_that_of_the_pixels(golden: Path) -> None:
    """The reference tells another, in most cases on the other axis; nothing of it is to come in here."""
    answer = answers(golden, "bucket_select_64")
    buckets, others = buckets_of(answer), 0
    for case in answer["cases"]:
        placement = place(tuple(case["image"]), buckets)
        cut = [placement.resized[i] - placement.bucket[i] for i in (0, 1)]
        assert [placement.left, placement.top] == [cut[0] // 2, cut[1] // 2] == case["pixel_crop_left_top"]
        others += case["time_ids_hw_tl_hw"][2:4] != [placement.top, placement.left]
    assert others > len(answer["cases"]) // 2


@pytest.mark.parametrize("image", [(1, 1), (4096, 1), (1, 4096), (31, 500), (100_000, 20), (20, 100_000)])
def test_images_of_less_than_a_step_have_no_bucket_without_enlarging(image: tuple[int, int]) -> None:
    assert place_without_enlarging(image, 1024 * 1024, 32) is None


SIDE = st.integers(1, 20_000)


@given(SIDE, SIDE, st.sampled_from([8, 32, 64]))
def test_without_enlarging_nothing_grows_and_the_bucket_is_covered(width: int, height: int, step: int) -> None:
    placement = place_without_enlarging((width, height), 1024 * 1024, step)
    if placement is None:
        assert min(width, height) < step or max(width, height) / min(width, height) > 1024 / step
        return
    for side, resized, bucket in zip((width, height), placement.resized, placement.bucket, strict=True):
        assert bucket % step == 0 and 0 < bucket <= resized <= side and resized - bucket < step


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

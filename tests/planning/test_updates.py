"""Limits of the number of updates, against the trainer's own order on real buckets, and against the cards."""

from repro.params import load_params

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planning.updates import planned_updates
from training.order import updates_per_epoch

SAMPLE = load_params("recipes/sample.yaml").train


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    micro_batch=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    ranks=st.sampled_from([1, 2, 4]),
    epochs=st.integers(1, 3),
)
def test_the_trainers_updates_lie_within_the_limits(
    counts: list[int], micro_batch: int, accumulation: int, ranks: int, epochs: int
) -> None:
    settings = SAMPLE.model_copy(
        update={
            "updates": None, "epochs": epochs, "micro_batch_size": micro_batch, "virtual_ranks": ranks,
            "batch_size": micro_batch * accumulation * ranks,
        }
    )  # fmt: skip
    buckets = [(64 + at, 64) for at, count in enumerate(counts) for _ in range(count)]
    updates = epochs * updates_per_epoch(buckets, micro_batch, accumulation * ranks)
    planned = planned_updates(settings, sum(counts), len(counts))
    assert planned.allow(updates)
    assert planned.fewest <= planned.expected <= planned.most


@pytest.mark.parametrize(("recipe", "images", "steps"), [("delta", 3_665_398, 28_638), ("epsilon", 5_210_319, 20_354)])
def test_the_cards_steps_are_the_expected_ones_with_97_buckets(recipe: str, images: int, steps: int) -> None:
    """With the 193 buckets of steps of 32 pixels one of the two would be missed."""
    settings = load_params(f"recipes/kohaku-xl-{recipe}.yaml").train
    assert planned_updates(settings, images, 97).expected == steps


def test_a_rounded_number_of_images_widens_the_limits() -> None:
    settings = load_params("recipes/kohaku-xl-gamma-base8.yaml").train
    exact, rounded = planned_updates(settings, 1_480_000, 9), planned_updates(settings, 1_480_000, 9, rounding=10_000)
    assert exact.most - exact.fewest <= 1
    assert (rounded.fewest, rounded.most) == (11_524, 11_602)
    assert rounded.allow(11_563)


def test_updates_that_are_given_stand() -> None:
    planned = planned_updates(SAMPLE, 10, 5)
    assert (planned.fewest, planned.expected, planned.most) == (SAMPLE.updates,) * 3
    assert not planned.allow(SAMPLE.updates + 1)

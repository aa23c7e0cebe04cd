"""Loss scaling: torch.amp.GradScaler's rule."""

from repro.errors import StageError

import pytest

from training.loss_scale import FIRST, GROWTH_INTERVAL, LossScale


def test_it_halves_at_an_overflow_and_begins_to_count_anew() -> None:
    scale = LossScale(good=7)
    scale.overflow(update=3)
    assert scale == LossScale(FIRST / 2, 0)


def test_it_doubles_after_enough_good_updates_in_a_row() -> None:
    scale = LossScale(4.0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.succeed()
    assert scale == LossScale(4.0, GROWTH_INTERVAL - 1)
    scale.succeed()
    assert scale == LossScale(8.0, 0)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.succeed()
    scale.overflow(update=9)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.succeed()
    assert scale == LossScale(4.0, GROWTH_INTERVAL - 1), "an overflow breaks the row"


def test_constants_are_those_of_torch() -> None:
    from torch.amp import GradScaler

    scaler = GradScaler("cpu")
    assert (scaler.get_scale(), scaler.get_growth_interval()) == (FIRST, GROWTH_INTERVAL)
    assert (scaler.get_growth_factor(), scaler.get_backoff_factor()) == (2.0, 0.5)


def test_it_stops_below_one() -> None:
    scale = LossScale(2.0)
    scale.overflow(update=1)
    assert scale.value == 1.0
    with pytest.raises(StageError, match=r"^update 2: the fp16 gradient is not finite at any loss scale down to 1; lower lr"):
        scale.overflow(update=2)

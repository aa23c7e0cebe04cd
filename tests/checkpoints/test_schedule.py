"""What a model predicts, in the words of scheduler configs, marker tensors and ModelSpec."""

from typing import Any

from repro.errors import StageError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.schedule import Schedule

CONFIG = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1}
schedules = st.builds(Schedule, st.sampled_from(["epsilon", "v_prediction"]), st.booleans())


@pytest.mark.parametrize(
    ("schedule", "markers", "modelspec"),
    [
        (Schedule(), [], "epsilon"),
        (Schedule("v_prediction"), ["v_pred"], "v"),
        (Schedule("v_prediction", True), ["v_pred", "ztsnr"], "v"),
    ],
)
def test_words_of_single_files(schedule: Schedule, markers: list[str], modelspec: str) -> None:
    assert schedule.markers == markers
    assert schedule.modelspec == modelspec
    assert Schedule.from_markers(["model.x", *markers]) == (schedule if markers else None)


@given(schedules, schedules)
def test_a_config_says_what_was_written_into_it(before: Schedule, after: Schedule) -> None:
    config = before.in_config(CONFIG)
    written = after.in_config(config)
    assert Schedule.from_config(written) == after
    assert after.in_config(written) == written
    assert (written["timestep_spacing"] == "trailing") == after.zero_terminal_snr
    assert {key: value for key, value in written.items() if key in ("_class_name", "steps_offset")} == {
        "_class_name": "EulerDiscreteScheduler",
        "steps_offset": 1,
    }


@pytest.mark.parametrize("more", [{}, {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}])
def test_a_config_that_says_it_stays_as_it_is(more: dict[str, Any]) -> None:
    config = CONFIG | more
    assert Schedule().in_config(config) == config
    assert config == CONFIG | more


def test_null_changes_nothing() -> None:
    for schedule in (Schedule(), Schedule("v_prediction", True), Schedule("epsilon", True)):
        assert schedule.changed(None, None) == schedule
    assert Schedule().changed("v_prediction", None) == Schedule("v_prediction")
    assert Schedule("v_prediction").changed(None, True) == Schedule("v_prediction", True)
    assert Schedule("v_prediction", True).changed("epsilon", False) == Schedule()


@pytest.mark.parametrize(
    ("schedule", "prediction", "zero"),
    [(Schedule(), None, True), (Schedule("v_prediction", True), "epsilon", None), (Schedule(), "epsilon", True)],
)
def test_noise_is_not_predicted_from_noise_alone(schedule: Schedule, prediction: str | None, zero: bool | None) -> None:
    with pytest.raises(
        StageError, match=r"base\.zero_terminal_snr with prediction epsilon: .*set base\.prediction: v_prediction"
    ):
        schedule.changed(prediction, zero)

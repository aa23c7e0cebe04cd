"""What a model predicts and on which noise schedule, in the three ways in which its files say it.

A diffusers folder has `prediction_type` and `rescale_betas_zero_snr` in its scheduler's config. A single file has marker
tensors without content, `v_pred` and `ztsnr`, by which ComfyUI, WebUI and Forge tell such a model from one that predicts
noise (ComfyUI writes them so itself); some published files have one number in them. ModelSpec says `epsilon` or `v`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from repro.errors import StageError

V_PREDICTION = "v_prediction"
V_MARKER, ZERO_TERMINAL_MARKER = MARKERS = ("v_pred", "ztsnr")


@dataclass(frozen=True)
class Schedule:
    """`prediction` by diffusers' name; `zero_terminal_snr`: whether the last timestep holds nothing of the picture."""

    prediction: str = "epsilon"
    zero_terminal_snr: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Schedule":
        """Of a scheduler's config, by diffusers' defaults where it says nothing."""
        return cls(config.get("prediction_type", cls.prediction), config.get("rescale_betas_zero_snr", cls.zero_terminal_snr))

    @classmethod
    def from_markers(cls, names: Collection[str]) -> "Schedule | None":
        """Of a single file's tensor names; None without markers, which says nothing: many files lack them."""
        if not set(MARKERS) & set(names):
            return None
        return cls(V_PREDICTION if V_MARKER in names else cls.prediction, ZERO_TERMINAL_MARKER in names)

    @property
    def markers(self) -> list[str]:
        """The marker tensors that a single file of this model has."""
        wanted = (self.prediction == V_PREDICTION, self.zero_terminal_snr)
        return [marker for marker, is_wanted in zip(MARKERS, wanted, strict=True) if is_wanted]

    @property
    def modelspec(self) -> str:
        """ModelSpec's `prediction_type`."""
        return "v" if self.prediction == V_PREDICTION else self.prediction

    def in_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A scheduler's config that says this; one that says it already stays as it is.

        Sampling steps are spaced so that they begin at the last timestep where that one holds nothing (Lin et al. 2023,
        section 3.3), and else as SDXL's own file says.
        """
        before, changed = Schedule.from_config(config), dict(config)
        if self.prediction != before.prediction:
            changed["prediction_type"] = self.prediction
        if self.zero_terminal_snr != before.zero_terminal_snr:
            changed["rescale_betas_zero_snr"] = self.zero_terminal_snr
            changed["timestep_spacing"] = "trailing" if self.zero_terminal_snr else "leading"
        return changed

    def changed(self, prediction: str | None, zero_terminal_snr: bool | None) -> "Schedule":
        """This one with what is not None.

        Raises:
            StageError: noise is to be predicted where there is nothing but noise: the model would learn to copy it.
        """
        given = {"prediction": prediction, "zero_terminal_snr": zero_terminal_snr}
        new = replace(self, **{key: value for key, value in given.items() if value is not None})
        if new != self and new.zero_terminal_snr and new.prediction != V_PREDICTION:
            raise StageError(
                f"base.zero_terminal_snr with prediction {new.prediction}: the last timestep is noise alone there, so predicting"
                " noise teaches nothing; set base.prediction: v_prediction"
            )
        return new

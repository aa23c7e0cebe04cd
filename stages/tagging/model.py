"""The models that describe pictures: one interface for all kinds, and what of a model and its settings decides its answers.

A model's answer to a picture hangs on its files, on the settings and the code below, on the device, and in its last bits on
how many pictures it is given at once and on the picture's place among them. It does not hang on which pictures the others
are.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from repro.onnx import package_versions
from repro.params import Annotate, AnnotationModel, QualityScorer, Scorer, Tagger, TextReader
from repro.state import code_digest

import polars as pl
from PIL import Image

from booru.captioning.annotations import AESTHETIC, KINDS, QUALITY, TAGS, TEXT
from tagging.model_files import model_folders

if TYPE_CHECKING:
    import torch

STAGES = Path(__file__).parents[1]
SETTINGS: dict[str, type[AnnotationModel]] = {TAGS: Tagger, AESTHETIC: Scorer, QUALITY: QualityScorer, TEXT: TextReader}
# What a section says beside where its model lies, and that decides an answer.
DECIDING = {TAGS: ("preprocess", "floor"), AESTHETIC: ("label",), QUALITY: (), TEXT: ("precision", "prompt", "max_length")}
LOADED_BY_TRANSFORMERS = ("tagging/model_files.py", "repro/numerics.py")
CODE = {
    TAGS: (
        "tagging/wd_tagger.py", "tagging/wd_preprocess.py", "booru/captioning/thresholds.py", "booru/images/on_white.py",
        "repro/onnx.py",
    ),
    AESTHETIC: ("tagging/aesthetic_shadow.py", "tagging/scores.py", *LOADED_BY_TRANSFORMERS),
    QUALITY: ("tagging/waifu_aesthetic.py", "tagging/scores.py", *LOADED_BY_TRANSFORMERS),
    TEXT: ("tagging/llava_reader.py", "repro/devices.py", *LOADED_BY_TRANSFORMERS),
}  # fmt: skip
DECODING = "booru/images/decoding.py"
COMMON_CODE = (DECODING, "tagging/describing.py")
TRANSFORMERS = ("numpy", "pillow", "transformers")
PACKAGES = {
    TAGS: ("numpy", "onnxruntime", "opencv-python-headless", "pillow"),
    AESTHETIC: TRANSFORMERS,
    QUALITY: TRANSFORMERS,
    TEXT: (*TRANSFORMERS, "tokenizers"),
}


class PictureModel(Protocol):
    """A model that has been opened.

    Attributes:
        schema: columns of an answer. digests: {file: sha256} of what was loaded.
    """

    schema: dict[str, pl.DataType]
    digests: dict[str, str]

    def describe(self, pictures: Sequence[Image.Image]) -> list[tuple]:
        """A row a picture, in the schema's order."""


@dataclass(frozen=True)
class AskedModel:
    """A model and how it is asked: its kind, the folder of all models, and its section of the parameters as JSON, so that
    this can be a key."""

    kind: str
    models: Path
    section: str
    device: Literal["cpu", "cuda"]
    batch_size: int

    @property
    def settings(self) -> AnnotationModel:
        return SETTINGS[self.kind].model_validate_json(self.section)

    def digests(self) -> dict[str, dict[str, str]]:
        """{section: {file: sha256}} of the model's folders, checked; the model is not loaded.

        Raises:
            StageError: a file is missing, or has another sha256 than the parameters say.
        """
        return {part.key: part.digests(self.models) for part in model_folders(self.settings)}

    def determining_parts(self) -> dict[str, Any]:
        """Everything that determines an answer beside the picture's bytes.

        Raises:
            StageError: as for `digests`; or there is no GPU of one model where the device is one.
        """
        settings = self.settings.model_dump(mode="json")
        return {
            "kind": self.kind,
            "files": self.digests(),
            "settings": {name: settings[name] for name in DECIDING[self.kind]},
            "batch_size": self.batch_size,
            "device": self._device_identity(),
            "code": code_digest(*(STAGES / path for path in (*COMMON_CODE, *CODE[self.kind]))),
            "packages": package_versions(PACKAGES[self.kind]),
        }

    def _device_identity(self) -> dict[str, str]:
        if self.kind == TAGS and self.device == "cpu":  # ONNX Runtime's; torch, which takes seconds, is not needed
            return {"device": "cpu"}
        from repro.devices import device_identity

        return device_identity(self.device)

    def open(self) -> PictureModel:
        """The model on this process's device.

        Raises:
            StageError: it cannot be opened, or has not the interface of its kind.
        """
        if self.kind == TAGS:
            from tagging.wd_tagger import WdTagger

            return WdTagger(self.models, self.settings, self._device_of_this_process())
        from repro.numerics import fix_torch

        fix_torch()
        device = self._device_of_this_process()
        match self.kind:
            case "aesthetic":
                from tagging.aesthetic_shadow import AestheticShadow

                return AestheticShadow(self.models, self.settings, device)
            case "quality":
                from tagging.waifu_aesthetic import WaifuAesthetic

                return WaifuAesthetic(self.models, self.settings, device)
            case _:
                from tagging.llava_reader import LlavaReader

                return LlavaReader(self.models, self.settings, device)

    def try_opening(self) -> None:
        """Open the model once and let go of it, on the CPU, so that the devices stay free.

        Raises:
            StageError: as for `open`.
        """
        replace(self, device="cpu").open()
        gc.collect()

    def _device_of_this_process(self) -> "str | torch.device":
        if self.kind == TAGS and self.device == "cpu":
            return "cpu"
        from repro.devices import device_of_this_process

        return device_of_this_process(self.device)


def asked_models(annotate: Annotate, models: Path, device: Literal["cpu", "cuda"]) -> list[AskedModel]:
    """The models that the parameters ask for, the tagger before the reader, which needs it."""
    sections = {kind: getattr(annotate, kind) for kind in KINDS}
    return [
        AskedModel(kind, models, section.model_dump_json(), device, annotate.batch_size)
        for kind, section in sections.items()
        if section is not None
    ]

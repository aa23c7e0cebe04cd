"""How much a picture appeals, by shadowlilac/aesthetic-shadow-2: a ViT that tells high from low quality.

The published model looks at 1024 x 1024 pixels, the aspect ratio squashed, and has the labels hq and lq; the probability of
hq is the score. Preprocessing as transformers' image-classification pipeline does it with Pillow, which SoteDiffusion's
captions were made with (Disty0/dataset-helpers de43aa7, aesthetic-folder.py). All is computed in float32.
"""

from collections.abc import Sequence
from pathlib import Path

from repro.errors import StageError
from repro.params import Scorer

import torch
from PIL import Image, ImageOps
from transformers import ViTForImageClassification, ViTImageProcessor

from tagging.model_files import PREPROCESSOR, aesthetic_folder, load_pretrained, loading
from tagging.scores import SCORE_SCHEMA, score_rows


class AestheticShadow:
    """The classifier behind the interface of `tagging.model`: a row is (score,), the probability of the label in [0, 1]."""

    schema = SCORE_SCHEMA

    def __init__(self, models: Path, settings: Scorer, device: str | torch.device):
        """Open the model's folder below `models`.

        Raises:
            StageError: a file is missing, has another sha256 than the settings or cannot be loaded; the model has no such
                label, or takes pictures of another size than its preprocessor makes.
        """
        part = aesthetic_folder(settings)
        folder = Path(models, settings.path)
        self.digests = part.digests(models)
        with loading(folder / PREPROCESSOR, "a ViT's preprocessor"):
            self._processor = ViTImageProcessor.from_pretrained(folder, local_files_only=True)
        model = load_pretrained(ViTForImageClassification, folder, torch.float32)
        self._label = _label_number(model.config.id2label, settings.label, part.key, folder)
        _check_size(self._processor.size, model.config.image_size, folder)
        self._folder, self._model, self._device = folder, model.to(device), device

    @torch.no_grad()
    def describe(self, pictures: Sequence[Image.Image]) -> list[tuple[float]]:
        upright = [ImageOps.exif_transpose(picture).convert("RGB") for picture in pictures]
        pixels = self._processor(upright, return_tensors="pt").pixel_values.to(self._device)
        logits = self._model(pixels).logits
        scores = logits.double().softmax(dim=-1)[:, self._label].float()
        return score_rows(scores, self._folder)


def _label_number(labels: dict[int, str], wanted: str, key: str, folder: Path) -> int:
    numbers = [number for number, label in labels.items() if label == wanted]
    if len(numbers) != 1:
        raise StageError(f"{key}.label: {wanted!r} is no label of {folder}; it has {', '.join(map(repr, labels.values()))}")
    return numbers[0]


def _check_size(made: dict[str, int], taken: int, folder: Path) -> None:
    if (made.get("height"), made.get("width")) != (taken, taken):
        raise StageError(
            f"{folder / PREPROCESSOR}: makes pictures of {dict(made)}, but the model takes {taken} x {taken}; expected the"
            " published model's files, all of one revision"
        )

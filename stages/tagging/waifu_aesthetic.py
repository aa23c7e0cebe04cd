"""The quality of a picture, by Waifu Diffusion's aesthetic head over CLIP (hakurei/waifu-diffusion-v1-4, aes-B32-v0).

CLIP's picture features (openai/clip-vit-base-patch32, 512 wide) at length one go through three linear layers, ReLU between
them, and a sigmoid. Pictures become RGB as in SoteDiffusion's script (Disty0/dataset-helpers de43aa7, quality-folder.py):
what is transparent shows its hidden colour. That script divides by the length of a whole batch of features, and so is right
for batches of one only; here each picture's features have their own length. All is computed in float32: the script's later
revisions say that 16 bits give nonsense.
"""

from collections.abc import Sequence
from pathlib import Path

from repro.errors import StageError
from repro.params import QualityScorer

import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from tagging.model_files import PREPROCESSOR, load_pretrained, loading, quality_clip_folder, quality_head_folder
from tagging.scores import SCORE_SCHEMA, score_rows

SHAPES = {
    "fc1.weight": (256, 512), "fc1.bias": (256,),
    "fc2.weight": (128, 256), "fc2.bias": (128,),
    "fc3.weight": (1, 128), "fc3.bias": (1,),
}  # fmt: skip


class WaifuAesthetic:
    """CLIP and the head behind the interface of `tagging.model`: a row is (score,) in [0, 1]."""

    schema = SCORE_SCHEMA

    def __init__(self, models: Path, settings: QualityScorer, device: str | torch.device):
        """Open the head's file and CLIP's folder below `models`; of CLIP, `digests` names the files as clip/....

        Raises:
            StageError: a file is missing, has another sha256 than the settings or cannot be loaded, or the head or CLIP's
                features have not the shapes above.
        """
        head, clip = quality_head_folder(settings), quality_clip_folder(settings)
        self.digests = head.digests(models) | {f"clip/{name}": digest for name, digest in clip.digests(models).items()}
        folder = Path(models, settings.clip.path)
        with loading(folder / PREPROCESSOR, "CLIP's preprocessor"):
            self._processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        model = load_pretrained(CLIPVisionModelWithProjection, folder, torch.float32)
        width, expected = model.config.projection_dim, SHAPES["fc1.weight"][1]
        if width != expected:
            raise StageError(
                f"{folder}: its features are {width} wide, the head takes {expected}; openai/clip-vit-base-patch32 is meant"
            )
        self._head = {name: tensor.to(device) for name, tensor in read_head(Path(models, settings.path, settings.head)).items()}
        self._folder, self._clip, self._device = folder, model.to(device), device

    @torch.no_grad()
    def describe(self, pictures: Sequence[Image.Image]) -> list[tuple[float]]:
        pixels = self._processor([picture.convert("RGB") for picture in pictures], return_tensors="pt").pixel_values
        features = self._clip(pixels.to(self._device)).image_embeds
        return score_rows(head_scores(self._head, features), self._folder)


def read_head(path: Path) -> dict[str, torch.Tensor]:
    """The head's six tensors, float32, from a .safetensors file or one of torch.save.

    Raises:
        StageError: it cannot be read, or does not hold exactly the tensors above.
    """
    with loading(path, "an aesthetic head's weights"):
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != SHAPES:
        differing = min(name for name in shapes.keys() | SHAPES.keys() if shapes.get(name) != SHAPES.get(name))
        raise StageError(
            f"{path}: {differing} is {shapes.get(differing, 'missing')}, expected {SHAPES.get(differing, 'none')};"
            " this is not an aes-B32 head"
        )
    return {name: tensor.float() for name, tensor in tensors.items()}


def head_scores(head: dict[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Scores, float32 [n] in [0, 1], of CLIP features [n, 512] of any length but zero."""
    double = features.double()  # square roots of float32 are not the same bits on every CPU
    hidden = (double / torch.linalg.vector_norm(double, dim=1, keepdim=True)).float()
    for layer in ("fc1", "fc2"):
        hidden = functional.relu(functional.linear(hidden, head[f"{layer}.weight"], head[f"{layer}.bias"]))
    return functional.linear(hidden, head["fc3.weight"], head["fc3.bias"]).sigmoid().squeeze(1)

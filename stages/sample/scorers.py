"""The sample's scorers: a picture classifier (as aesthetic-shadow-2) and an aesthetic head over CLIP (as aes-B32-v0).

Both learn from the quality tiers that the sample's posts have. The classifier's "hq" is how much a picture is liked: the
middle of its tier's span of favourite percentiles. The head's score is the probability that a picture is clean: neither out
of focus nor spoilt by compression nor with its colours changed about. Wrong colours are told best; of compression little is
left when a picture has been fitted to 96 pixels.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.numerics import fix_torch
from repro.progress import Progress
from repro.randomness import Stream
from repro.tensorfile import write_tensors

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from sample.population import SEED
from sample.posts import TIER_PERCENTILES
from sample.tagger import epochs
from sample.tagger_pictures import LabelledPicture
from sample.transformers_folder import initialise, write_config, write_model

SIDE, PATCH = 96, 12
BODY = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
# As CLIP ViT-B/32 has it, and the widths of aes-B32-v0's layers.
PROJECTION = 512
HEAD_WIDTHS = (PROJECTION, 256, 128, 1)
HEAD_FILE = "aes-B32-v0.safetensors"
LABELS = {0: "hq", 1: "lq"}


@dataclass(frozen=True)
class Settings:
    updates: int = 450
    batch: int = 48
    rate: float = 2e-3
    warmup: int = 20


class AestheticHead(nn.Module):
    """Logits [n, 1] of unit embeddings [n, 512]; the published head's sigmoid follows."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = (nn.Linear(a, b) for a, b in itertools.pairwise(HEAD_WIDTHS))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(embeddings)))))


@torch.no_grad()
def open_eyes(patches: nn.Conv2d, name: str) -> None:
    """Let a third of a patch embedding's filters start as second differences of neighbouring pixels, and a third as mean
    colours, in place.

    Blur and compression show in the former and little else, wrong colours in the latter; random filters learn to look for
    them after thousands of updates.
    """
    third = len(patches.weight) // 3
    for number, kernel in enumerate(patches.weight[: 2 * third]):
        stream = Stream(SEED, "tagger eyes", name, number)
        if number < third:
            y, x = 1 + stream.below(PATCH - 2), 1 + stream.below(PATCH - 2)
            dy, dx = stream.choice(((0, 1), (1, 0)))
            kernel.zero_()
            kernel[:, y, x] = 1.0
            kernel[:, y - dy, x - dx] = kernel[:, y + dy, x + dx] = -0.5
        else:
            mixture = torch.tensor([2 * stream.uniform() - 1 for _ in range(3)])
            kernel.copy_(mixture.view(3, 1, 1).expand_as(kernel) / PATCH**2)


def liking(picture: LabelledPicture) -> float:
    """The middle of the tier's span of favourite percentiles."""
    low, high = TIER_PERCENTILES[picture.tier]
    return (low + high) / 2


def cleanness(picture: LabelledPicture) -> float:
    return float(picture.tier == "clean")


def make_aesthetic() -> tuple[ViTForImageClassification, ViTImageProcessor]:
    config = ViTConfig(**BODY, id2label=LABELS, label2id={label: place for place, label in LABELS.items()})
    model = ViTForImageClassification(config)
    initialise(model, "aesthetic")
    open_eyes(model.vit.embeddings.patch_embeddings.projection, "aesthetic")
    return model, ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def make_quality() -> tuple[CLIPVisionModelWithProjection, AestheticHead, CLIPImageProcessor]:
    encoder, head = CLIPVisionModelWithProjection(CLIPVisionConfig(**BODY, projection_dim=PROJECTION)), AestheticHead()
    initialise(encoder, "quality encoder")
    initialise(head, "quality head")
    with torch.no_grad():  # the numbers of a unit embedding are so much smaller than one
        head.fc1.weight.mul_(math.sqrt(PROJECTION))
    open_eyes(encoder.vision_model.embeddings.patch_embedding, "quality")
    return encoder, head, CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})


def unit_rows(embeddings: torch.Tensor) -> torch.Tensor:
    """Rows divided by their lengths; the root in float64, whose rounding is the same on every CPU."""
    return embeddings / embeddings.double().pow(2).sum(1, keepdim=True).sqrt().float()


def fitted_pixels(images: Sequence[Image.Image], processor: ViTImageProcessor | CLIPImageProcessor) -> torch.Tensor:
    """uint8 [n, 3, 96, 96]: the pictures as the processor fits them to the model, before it changes their range."""
    fitted = [processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0] for image in images]
    return torch.from_numpy(np.stack(fitted).astype(np.uint8))


def normalised(pixels: torch.Tensor, processor: ViTImageProcessor | CLIPImageProcessor) -> torch.Tensor:
    """The processor's range for fitted pixels: float32."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    return (pixels / 255 - mean) / std


def train_to_score(
    name: str, score: Callable[[torch.Tensor], torch.Tensor], models: Sequence[nn.Module], pixels: torch.Tensor,
    truth: torch.Tensor, settings: Settings,
) -> None:  # fmt: skip
    """Teach the models, in place, that the logit `score(pixels of a batch)` [n] is the one of `truth` [n] in 0..1."""
    fix_torch()
    # The fused kernel alone has a correctly rounded square root on every CPU.
    parameters = [parameter for model in models for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    progress = Progress(name, settings.updates, "updates")
    for update, batch in enumerate(epochs(len(pixels), settings.batch, settings.updates)):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min((update + 1) / settings.warmup, 1 - update / settings.updates)
        loss = binary_cross_entropy_with_logits(score(pixels[batch]), truth[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.advance(note=f"loss {loss.item():.3f}")
    for model in models:
        model.eval()


def write_aesthetic(folder: Path, pictures: Sequence[LabelledPicture], settings: Settings) -> None:
    """Train the classifier and write its folder."""
    model, processor = make_aesthetic()

    def score(pixels: torch.Tensor) -> torch.Tensor:
        hq, lq = model(pixel_values=normalised(pixels, processor)).logits.unbind(1)
        return hq - lq  # the softmax's probability of hq is the sigmoid of this

    pixels = fitted_pixels([picture.image for picture in pictures], processor)
    train_to_score("aesthetic", score, [model], pixels, torch.tensor([liking(p) for p in pictures]), settings)
    write_model(folder, model)
    write_config(folder / "preprocessor_config.json", processor.to_dict())


def write_quality(folder: Path, pictures: Sequence[LabelledPicture], settings: Settings) -> None:
    """Train encoder and head; write the head's file into the folder and the encoder into its sub-folder `clip`."""
    encoder, head, processor = make_quality()

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return head(unit_rows(encoder(pixel_values=normalised(pixels, processor)).image_embeds)).squeeze(1)

    pixels = fitted_pixels([picture.image for picture in pictures], processor)
    train_to_score("quality", score, [encoder, head], pixels, torch.tensor([cleanness(p) for p in pictures]), settings)
    (folder / "clip").mkdir()
    write_model(folder / "clip", encoder)
    write_config(folder / "clip" / "preprocessor_config.json", processor.to_dict())
    write_tensors(folder / HEAD_FILE, dict(head.state_dict()))

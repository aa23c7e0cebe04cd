"""Pixels that a model has drawn, as a picture."""

import torch
from PIL import Image


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """An RGB picture of pixels [3, h, w] in 0..1, cut off beyond and rounded to whole numbers, halves to even."""
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array, "RGB")

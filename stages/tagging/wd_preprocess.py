"""A picture as WD taggers take it: padded to a white square, at the model's size, BGR.

SmilingWolf's taggers were given pictures by several programs, each with its own rule for what is transparent and for the
resizing; probabilities near a threshold follow. The rules here are named by what had them, and give the same pixels:

    kohya-2024-04  sd-scripts at fdbb03c3, finetune/tag_images_by_wd14_tagger.py, until 2024-07-20: what SoteDiffusion was
                   captioned with. Transparent pixels show the colour stored under them; larger pictures are averaged over
                   areas, smaller ones enlarged by OpenCV's Lanczos
    kohya-2024-07  until 2025-02-19: averaging was still meant, but the call names its method in the wrong place, so that
                   OpenCV interpolates linearly between the four nearest pixels; smaller ones by Pillow's Lanczos
    kohya-2025-02  sd-scripts at f7f971f5: averaged over areas again
    kohya-2026-01  sd-scripts at 48d368fa: what is transparent shows white
    imgutils       dghs-imgutils 0.19.0, and the taggers' own demo: on white, Pillow's bicubic for all
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Literal

import numpy as np
from PIL import Image

from booru.images.on_white import on_white

Revision = Literal["kohya-2024-04", "kohya-2024-07", "kohya-2025-02", "kohya-2026-01", "imgutils"]
WHITE = 255


def model_input(image: Image.Image, side: int, revision: Revision) -> np.ndarray:
    """A picture as the tagger takes it: float32 [side, side, 3], BGR, 0 to 255, all of them whole numbers."""
    to_rgb, resize = _RULES[revision]
    square = _padded(np.asarray(to_rgb(image))[:, :, ::-1])
    return resize(square, side).astype(np.float32)


def _padded(pixels: np.ndarray) -> np.ndarray:
    """A white square around uint8 [height, width, 3]; where the borders cannot be equal, the left and the upper one is less."""
    size = max(pixels.shape[:2])
    borders = [((size - length) // 2, (size - length + 1) // 2) for length in pixels.shape[:2]]
    return np.pad(pixels, (*borders, (0, 0)), constant_values=WHITE)


def _alpha_dropped(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _alpha_on_white(image: Image.Image) -> Image.Image:
    """As sd-scripts does since 2026-01-18: other than imgutils it knows the transparent colour of a palette."""
    if image.mode not in ("RGBA", "LA") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _averaged_or_opencv_lanczos(pixels: np.ndarray, side: int) -> np.ndarray:
    opencv = _opencv()
    method = opencv.INTER_AREA if len(pixels) > side else opencv.INTER_LANCZOS4
    return opencv.resize(pixels, (side, side), interpolation=method)


def _linear_or_lanczos(pixels: np.ndarray, side: int) -> np.ndarray:
    if len(pixels) <= side:
        return _by_pillow(pixels, side, Image.Resampling.LANCZOS)
    opencv = _opencv()
    return opencv.resize(pixels, (side, side), interpolation=opencv.INTER_LINEAR)


def _averaged_or_lanczos(pixels: np.ndarray, side: int) -> np.ndarray:
    if len(pixels) < side:
        return _by_pillow(pixels, side, Image.Resampling.LANCZOS)
    opencv = _opencv()
    return opencv.resize(pixels, (side, side), interpolation=opencv.INTER_AREA)


def _bicubic(pixels: np.ndarray, side: int) -> np.ndarray:
    return _by_pillow(pixels, side, Image.Resampling.BICUBIC)


def _by_pillow(pixels: np.ndarray, side: int, method: Image.Resampling) -> np.ndarray:
    """Pillow resizes each channel by itself: their order does not matter to it."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), method))


@functools.cache
def _opencv() -> ModuleType:
    """OpenCV, imported when the first picture needs it, on one thread and without code that is chosen by the CPU (Intel's
    IPP, AVX): so its pixels are the same on all."""
    import cv2

    cv2.setNumThreads(1)
    cv2.setUseOptimized(False)
    return cv2


_RULES: dict[Revision, tuple[Callable[[Image.Image], Image.Image], Callable[[np.ndarray, int], np.ndarray]]] = {
    "kohya-2024-04": (_alpha_dropped, _averaged_or_opencv_lanczos),
    "kohya-2024-07": (_alpha_dropped, _linear_or_lanczos),
    "kohya-2025-02": (_alpha_dropped, _averaged_or_lanczos),
    "kohya-2026-01": (_alpha_on_white, _averaged_or_lanczos),
    "imgutils": (on_white, _bicubic),
}

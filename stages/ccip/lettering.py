"""Text in pictures and plots: DejaVu Sans as matplotlib brings it, and what it can show.

System fonts and shaping libraries differ between machines, so neither is used: Pillow sets text
with its basic layout.
"""

import functools
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont


def font_file(bold: bool) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_file(bold)), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _drawable() -> frozenset[int]:
    """Code points that both weights have a glyph for."""
    return frozenset(FT2Font(str(font_file(False))).get_charmap()) & frozenset(FT2Font(str(font_file(True))).get_charmap())


def printable(text: str) -> str:
    """The text with every run of characters that the font lacks, or that no reader would see, as code points:
    `初音 (x)` -> `[U+521D U+97F3] (x)`."""
    shown, missing = [], []
    for character in text:
        if character == " " or (character.isprintable() and ord(character) in _drawable()):
            if missing:
                shown.append(f"[{' '.join(missing)}]")
                missing = []
            shown.append(character)
        else:
            missing.append(f"U+{ord(character):04X}")
    return "".join(shown) + (f"[{' '.join(missing)}]" if missing else "")


def text_width(text: str, size: int, bold: bool = False) -> float:
    """Width of one line of printable text, in the unit of `size`."""
    return font(size, bold).getlength(text)


def shortened(text: str, size: int, width: float, bold: bool = False) -> str:
    """The text in printable form, its end replaced by an ellipsis where it would be wider than `width`."""
    text = printable(text)
    if text_width(text, size, bold) <= width:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if text_width(text[:middle].rstrip() + "…", size, bold) <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + "…"


def lines_of(text: str, size: int, width: float) -> list[str]:
    """The text in lines of at most `width`, broken at spaces; a word wider than that is shortened."""
    lines: list[str] = []
    for word in printable(text).split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, size, width))
    return lines

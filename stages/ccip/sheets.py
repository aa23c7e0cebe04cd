"""Sheets of pictures for people: one a character, and the grid of all.

Text is set in the DejaVu that matplotlib brings, with Pillow's basic layout: system fonts and
shaping libraries differ between machines.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

ENLARGED, LARGEST_CELL = 2, 256
GAP, MARGIN, LINE = 4, 12, 20
GRID_COLUMNS = 3
INK, PAPER = "#222222", "#ffffff"
GRID_NAME = "grid"
UNSAFE = '/\\:*?"<>|%'


@dataclass(frozen=True)
class ModelPictures:
    """One model's pictures of a character, in request order; held out: with artists who never drew the
    character in training (no pictures and no score where there are none)."""

    score: float
    taught: Sequence[Image.Image]
    held_out_score: float | None
    held_out: Sequence[Image.Image]


@dataclass(frozen=True)
class CharacterPictures:
    """A character's references and what each model made."""

    name: str
    references: Sequence[Image.Image]
    models: dict[str, ModelPictures]


def sheet_name(character: str) -> str:
    """File name of a character's sheet: its tag, with what file systems refuse (and a clash with the
    grid's name) written as %XX."""
    safe = "".join(f"%{ord(c):02X}" if c in UNSAFE or c < " " else c for c in character)
    if safe.startswith(".") or safe == GRID_NAME:
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    return f"{safe}.png"


def cell_side(width: int, height: int) -> int:
    """Side of the square a picture of width x height pixels is shown in."""
    return min(ENLARGED * max(width, height), LARGEST_CELL)


def fit(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled to touch a square of `side` pixels, centred on paper."""
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    cell = Image.new("RGB", (side, side), PAPER)
    scaled = image.convert("RGBA").resize(size, Image.Resampling.LANCZOS)
    cell.paste(scaled, ((side - size[0]) // 2, (side - size[1]) // 2), scaled)
    return cell


def character_sheet(pictures: CharacterPictures, side: int) -> Image.Image:
    """A row of references, then a row for each model: pictures of one column share prompt and seed; the
    held-out ones stand apart on the right."""
    rows = [(("references", pictures.references), ("", ()))] + [
        (
            (f"{name}: score {model.score:.3f}", model.taught),
            (f"artists held out of training: score {model.held_out_score:.3f}" if model.held_out else "", model.held_out),
        )
        for name, model in pictures.models.items()
    ]
    step = side + GAP
    widths = [len(left) * step + (2 * MARGIN + len(right) * step if right else 0) for (_, left), (_, right) in rows]
    width = 2 * MARGIN + max(widths) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + LINE + GAP + len(rows) * (LINE + step)), PAPER)
    draw = ImageDraw.Draw(sheet)
    _text(draw, (MARGIN, MARGIN), pictures.name, 15, width - 2 * MARGIN, bold=True)
    y = MARGIN + LINE + GAP
    for row in rows:
        x = MARGIN
        for label, images in row:
            _text(draw, (x, y), label, 12, width - MARGIN - x)
            for image in images:
                sheet.paste(fit(image, side), (x, y + LINE))
                x += step
            x += 2 * MARGIN
        y += LINE + step
    return sheet


def grid_sheet(characters: Sequence[CharacterPictures], side: int) -> Image.Image:
    """Each character once, its name above: a reference, then both models' first picture, same prompt and seed."""
    columns = min(GRID_COLUMNS, len(characters))
    rows = -(-len(characters) // columns)
    block_width, block_height = 3 * side + 2 * GAP, LINE + side + MARGIN
    width = 2 * MARGIN + columns * (block_width + 2 * MARGIN) - 2 * MARGIN
    top = MARGIN + LINE + LINE
    sheet = Image.new("RGB", (width, top + rows * block_height + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _text(draw, (MARGIN, MARGIN), "One reference of each character; base and merged model: same prompt, same seed. "
          "Numbers: CCIP score, base → merged.", 12, width - 2 * MARGIN)  # fmt: skip
    for i, character in enumerate(characters):
        x = MARGIN + (i // rows) * (block_width + 2 * MARGIN)
        y = top + (i % rows) * block_height
        if i % rows == 0:
            for j, label in enumerate(("reference", "base", "merged")):
                _text(draw, (x + j * (side + GAP), MARGIN + LINE), label, 12, side)
        base, merged = (character.models[name] for name in ("base", "merged"))
        _text(draw, (x, y), f"{character.name}  {base.score:.2f} → {merged.score:.2f}", 13, block_width, bold=True)
        for j, images in enumerate((character.references, base.taught, merged.taught)):
            sheet.paste(fit(images[0], side), (x + j * (side + GAP), y + LINE))
    return sheet


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def _text(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, width: int, bold: bool = False) -> None:
    """One line of text, shortened with an ellipsis where it is wider than `width` pixels."""
    font = _font(size, bold)
    if draw.textlength(text, font=font) > width:
        while text and draw.textlength(text + "…", font=font) > width:
            text = text[:-1]
        text += "…"
    draw.text(at, text, fill=INK, font=font)

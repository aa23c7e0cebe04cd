"""A picture as a plan, and its drawing: vector figures by librsvg, sprites by Pillow, one background, one quality tier.

The plan holds every choice; drawing takes nothing from chance. Reference for the vector art: DiceBear's own
style definitions (dicebear-styles), whose components and options are named in catalogue.yaml.
"""

import copy
import io
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from dicebear import Avatar, Style
from PIL import Image, ImageFilter

from sample.catalogue import catalogue
from sample.characters import SPRITE_CLOTHES_COLOURS, SPRITE_HAIR_COLOURS

ART = Path("data/art")
TIERS = ("clean", "soft", "noisy", "miscoloured")
# Row of a shrunk sprite below which there is no face: clothes are looked for there only, or eyes would change too.
CHIN_ROWS = {"eileen": 210, "lucy": 200, "sylvie": 145}


@dataclass(frozen=True)
class Window:
    """What is seen of a figure: centre, side along the picture's short edge, in the figure's own units; turn in degrees.

    The figure is turned and mirrored about the centre; then the window moves right by `shift` sides.
    """

    x: float
    y: float
    side: float
    turn: float = 0.0
    flip: bool = False
    shift: float = 0.0


@dataclass(frozen=True)
class VectorFigure:
    """One DiceBear drawing: the style's name, its options (as sorted pairs), whether lenses are drawn over the eyes."""

    style: str
    options: tuple[tuple[str, Any], ...]
    lenses: bool
    window: Window


@dataclass(frozen=True)
class SpriteFigure:
    """One Ren'Py sprite file, with the colours that replace its own."""

    file: str
    family: str
    hair_colour: str | None
    clothes_colour: str | None
    window: Window


@dataclass(frozen=True)
class Background:
    """kind: flat, gradient, dots, stripes (of one light colour) or scene (a file of data/art)."""

    kind: str
    name: str
    offset: float = 0.5


@dataclass(frozen=True)
class Picture:
    """Everything that fixes a picture's pixels. Two figures stand side by side."""

    figures: tuple[VectorFigure | SpriteFigure, ...]
    background: Background
    width: int
    height: int
    tier: str = "clean"


@cache
def style_definition(name: str) -> dict[str, Any]:
    """A style as its artist published it."""
    return json.loads((files("dicebear_styles") / f"{name}.json").read_text(encoding="utf-8"))


@cache
def style_components(name: str) -> tuple[str, ...]:
    """The names of a style's components: hair, eyes, mouth and so on."""
    return tuple(style_definition(name)["components"])


def _recolour_ink(node: Any) -> None:
    """Open Peeps fills most hair with the colour of its outlines; let it take the hair colour."""
    if isinstance(node, list):
        for child in node:
            _recolour_ink(child)
    elif isinstance(node, dict):
        fill = (node.get("attributes") or {}).get("fill")
        if isinstance(fill, dict) and fill.get("name") == "ink":
            fill["name"] = "headContrast"
        for child in node.values():
            _recolour_ink(child)


def _drop_overlays(node: Any) -> None:
    """Personas' gleams on hair and skin blend as overlay; librsvg lays them on as plain white, and black hair turns grey."""
    if isinstance(node, list):
        node[:] = [child for child in node if not _blends(child)]
        for child in node:
            _drop_overlays(child)
    elif isinstance(node, dict):
        for child in node.values():
            _drop_overlays(child)


def _blends(node: Any) -> bool:
    return isinstance(node, dict) and "mix-blend-mode:overlay" in str((node.get("attributes") or {}).get("style"))


def _lens(x: float, y: float, radius: float) -> dict[str, Any]:
    attributes = {
        "cx": str(x), "cy": str(y), "r": str(radius), "fill": "#ffffff", "fill-opacity": "0.25",
        "stroke": "#26262e", "stroke-width": f"{radius * 0.22:.3f}",
    }  # fmt: skip
    return {"type": "element", "name": "circle", "attributes": attributes}


@cache
def _style(name: str, lenses: bool) -> Style:
    definition = copy.deepcopy(style_definition(name))
    if name == "open-peeps":
        _recolour_ink(definition["components"]["head"])
    if name == "personas":
        _drop_overlays([definition["canvas"], definition["components"]["hair"]])
    if lenses:
        circles = catalogue()["styles"][name]["glasses"]["lenses"]
        (x0, y, radius), (x1, _, _) = circles
        bridge = {"x1": str(x0 + radius), "x2": str(x1 - radius), "y1": str(y), "y2": str(y), "stroke": "#26262e"}
        bridge["stroke-width"] = f"{radius * 0.22:.3f}"
        line = {"type": "element", "name": "line", "attributes": bridge}
        definition["canvas"]["elements"] += [*(_lens(*circle) for circle in circles), line]
    return Style(definition)


def _rasterise(svg: str) -> Image.Image:
    raster = pyvips.Image.svgload_buffer(svg.encode())
    return Image.frombytes("RGBA", (raster.width, raster.height), raster.write_to_memory())


def _svg(body: str, view: tuple[float, float, float, float], width: int, height: int) -> str:
    box = " ".join(f"{value:.3f}" for value in view)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="{box}" fill="none">{body}</svg>'


def _view(window: Window, width: int, height: int, floor: float | None) -> tuple[float, float, float, float]:
    """(left, top, width, height) of what is seen; never below `floor`, where the art ends."""
    unit = window.side / min(width, height)
    seen_width, seen_height = unit * width, unit * height
    top = window.y - seen_height / 2
    if floor is not None:
        top = min(top, floor - seen_height)
    return window.x + window.shift * window.side - seen_width / 2, top, seen_width, seen_height


def _draw_vector(figure: VectorFigure, width: int, height: int) -> Image.Image:
    """The figure alone, RGBA [height, width]."""
    style = _style(figure.style, figure.lenses)
    text = Avatar(style, dict(figure.options)).to_string()
    body = text[text.index(">") + 1 : text.rindex("</svg>")]
    window = figure.window
    turned = f"rotate({window.turn:.2f} {window.x:.3f} {window.y:.3f})"
    if window.flip:
        turned += f" translate({2 * window.x:.3f} 0) scale(-1 1)"
    floor = catalogue()["styles"][figure.style].get("floor")
    return _rasterise(_svg(f'<g transform="{turned}">{body}</g>', _view(window, width, height, floor), width, height))


def _recolour_sprite(sprite: Image.Image, family: str, hair_colour: str, clothes_colour: str) -> Image.Image:
    """Other hair and clothes, same drawing: hue replaced, saturation and value scaled, where the pixels are hair or clothes."""
    hsv = np.asarray(sprite.convert("RGB").convert("HSV")).astype(np.int32)
    hue, saturation, value = np.moveaxis(hsv, 2, 0)
    warm = (hue >= 225) | (hue <= 14)
    below_chin = np.arange(sprite.height)[:, None] > CHIN_ROWS[family]
    if family == "eileen":
        hair, clothes = warm & (saturation > 75), (hue > 135) & (hue < 185) & (saturation > 20)
    elif family == "lucy":
        hair, clothes = (value < 120) & (saturation < 90), (hue > 55) & (hue < 175) & (value > 90)
    else:
        hair, clothes = (warm | (hue < 36)) & (saturation > 95), (hue > 55) & (hue < 195) & (saturation > 50)
    clothes &= below_chin
    target, strength, brightness = SPRITE_HAIR_COLOURS[hair_colour]
    if family == "lucy":
        hair_saturation, hair_value = np.full_like(saturation, int(150 * min(strength, 1.0))), (70 + value) * 5 // 4
    else:
        hair_saturation, hair_value = saturation, value
    hair_saturation = hair_saturation * round(strength * 64) // 64
    hair_value = hair_value * round(brightness * 64) // 64
    clothes_saturation = saturation if family == "sylvie" else saturation + 50
    bands = [
        np.where(hair, target, np.where(clothes, SPRITE_CLOTHES_COLOURS[clothes_colour], hue)),
        np.where(hair, hair_saturation, np.where(clothes, clothes_saturation, saturation)),
        np.where(hair, hair_value, value),
    ]
    recoloured = Image.fromarray(np.stack(bands, axis=2).clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    recoloured.putalpha(sprite.getchannel("A"))
    return recoloured


@cache
def _sprite(file: str, family: str, hair_colour: str | None, clothes_colour: str | None, art: Path) -> Image.Image:
    sprite = Image.open(art / f"{file}.webp").convert("RGBA")
    if hair_colour is None or clothes_colour is None:
        return sprite
    return _recolour_sprite(sprite, family, hair_colour, clothes_colour)


def _draw_sprite(figure: SpriteFigure, width: int, height: int, art: Path) -> Image.Image:
    """The figure alone, RGBA [height, width]."""
    sprite = _sprite(figure.file, figure.family, figure.hair_colour, figure.clothes_colour, art)
    left, top, seen_width, _ = _view(figure.window, width, height, sprite.height)
    scale = seen_width / width
    canvas = Image.new("RGBA", (width, height))
    size = (max(1, round(sprite.width / scale)), max(1, round(sprite.height / scale)))
    small = sprite.resize(size, Image.Resampling.LANCZOS)
    if figure.window.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left = sprite.width - left - seen_width
    canvas.paste(small, (round(-left / scale), round(-top / scale)))
    return canvas


def _draw_background(background: Background, width: int, height: int, art: Path) -> Image.Image:
    """RGBA [height, width], opaque."""
    if background.kind == "scene":
        scene = Image.open(art / f"{background.name}.webp").convert("RGBA")
        scale = max(width / scene.width, height / scene.height)
        size = (max(width, round(scene.width * scale)), max(height, round(scene.height * scale)))
        scene = scene.resize(size, Image.Resampling.LANCZOS)
        left = round((scene.width - width) * background.offset)
        return scene.crop((left, 0, left + width, height))
    colour = catalogue()["backgrounds"][background.name]
    body = f'<rect width="{width}" height="{height}" fill="{colour}"/>'
    if background.kind == "gradient":
        stops = f'<stop offset="0" stop-color="#ffffff"/><stop offset="1" stop-color="{colour}"/>'
        body = f'<linearGradient id="g" x1="0" y1="0" x2="0" y2="1">{stops}</linearGradient>'
        body += f'<rect width="{width}" height="{height}" fill="url(#g)"/>'
    elif background.kind == "dots":
        step = 16
        body += "".join(
            f'<circle cx="{x + (y // step % 2) * step // 2}" cy="{y}" r="4" fill="#ffffff"/>'
            for y in range(0, height + step, step)
            for x in range(0, width + step, step)
        )
    elif background.kind == "stripes":
        body += "".join(f'<rect x="{x}" width="8" height="{height}" fill="#ffffff"/>' for x in range(0, width, 16))
    return _rasterise(_svg(body, (0, 0, width, height), width, height))


def _degrade(image: Image.Image, tier: str) -> Image.Image:
    """What makes a picture be liked less: a soft focus, JPEG blocks, red and blue changed about."""
    if tier == "soft":
        return image.filter(ImageFilter.GaussianBlur(min(image.size) / 64))
    if tier == "noisy":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=7)
        return Image.open(buffer).convert("RGB")
    if tier == "miscoloured":
        red, green, blue = image.split()
        return Image.merge("RGB", (blue, red, green))
    return image


def draw(picture: Picture, art: Path = ART) -> Image.Image:
    """The picture, RGB; `art` holds the Ren'Py sprites and backgrounds."""
    canvas = _draw_background(picture.background, picture.width, picture.height, art)
    for figure in picture.figures:
        if isinstance(figure, VectorFigure):
            layer = _draw_vector(figure, picture.width, picture.height)
        else:
            layer = _draw_sprite(figure, picture.width, picture.height, art)
        canvas.alpha_composite(layer)
    return _degrade(canvas.convert("RGB"), picture.tier)


def encode(picture: Picture, image: Image.Image) -> bytes:
    """WebP: lossless for flat vector art, so that decoding never differs; quality 92 where a sprite or scene is in it."""
    buffer = io.BytesIO()
    lossy = any(isinstance(figure, SpriteFigure) for figure in picture.figures)
    image.save(buffer, "WEBP", method=4, **({"quality": 92} if lossy else {"lossless": True, "quality": 80}))
    return buffer.getvalue()

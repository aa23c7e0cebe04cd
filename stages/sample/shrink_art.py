"""Shrink the Ren'Py sprites and backgrounds to what the sample needs; made data/art once, by hand:

    apt-get download renpy-thequestion renpy-demo        # 8.0.3+dfsg-1, Debian 12
    for f in renpy-*.deb; do dpkg-deb -x "$f" unpacked; done
    python stages/sample/shrink_art.py unpacked/usr/share/games/renpy data/art

Sprites keep their upper 560 pixels at three quarters of the size; backgrounds become 384 pixels wide.
"""

import sys
from pathlib import Path

from PIL import Image

SPRITE_ROWS = 560
SPRITE_SCALE = 0.75
SCENE_WIDTH = 384


def shrink_sprite(source: Path, target: Path) -> None:
    """One RGBA sprite, cut below the hips and scaled down."""
    sprite = Image.open(source).convert("RGBA")
    sprite = sprite.crop((0, 0, sprite.width, min(SPRITE_ROWS, sprite.height)))
    size = (round(sprite.width * SPRITE_SCALE), round(sprite.height * SPRITE_SCALE))
    sprite.resize(size, Image.Resampling.LANCZOS).save(target, "WEBP", quality=92, alpha_quality=90, method=6)


def shrink_scene(source: Path, target: Path) -> None:
    """One background, scaled to SCENE_WIDTH."""
    scene = Image.open(source).convert("RGB")
    height = round(scene.height * SCENE_WIDTH / scene.width)
    scene.resize((SCENE_WIDTH, height), Image.Resampling.LANCZOS).save(target, "WEBP", quality=85, method=6)


def main(games: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for source in sorted(games.glob("*/game/images/*.*")):
        kind, _, rest = source.stem.partition(" ")
        if kind in ("eileen", "lucy", "sylvie"):
            shrink_sprite(source, output / f"{kind}-{rest.replace(' ', '-')}.webp")
        elif kind == "bg" and rest in ("club", "lecturehall", "meadow", "uni", "cave", "washington", "whitehouse"):
            shrink_scene(source, output / f"{rest}.webp")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

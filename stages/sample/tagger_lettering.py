"""Words drawn on pictures: signs, and letters here and there with a plate or an outline.

The letters are those of Pillow's own font (a part of Aileron Regular, CC0).
"""

from repro.randomness import Stream

from PIL import Image, ImageDraw, ImageFont

# What the sample's text reader can read.
WORDS = ("CAFE", "HELLO", "LOVE", "MOON", "OPEN", "SALE", "STOP", "WOW")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# (paper, ink)
COLOURS = (("white", "black"), ("black", "white"), ("#f6e27a", "#20202a"), ("#c8242b", "white"), ("#1f4fa8", "#fff3c8"))
SIGN_COLOURS = (("white", "black"), ("#f6e27a", "#20202a"), ("#c9e6bf", "#1b1b22"))


def any_word(stream: Stream) -> str:
    """One of WORDS or three to six letters without sense, by equal chances."""
    if stream.below(2) == 0:
        return stream.choice(WORDS)
    return "".join(stream.choice(LETTERS) for _ in range(3 + stream.below(4)))


def lettered(image: Image.Image, word: str, stream: Stream) -> Image.Image:
    """A copy of the picture with the word on it, 0.6 to 0.9 times as wide as the picture or 0.3 times as high as it.

    Two in three words stand on a plate at the picture's top or bottom, the others have an outline.
    """
    image = image.copy()
    pen = ImageDraw.Draw(image)
    paper, ink = stream.choice(COLOURS)
    font = _font_for(word, (0.6 + 0.3 * stream.uniform()) * image.width, 0.3 * image.height)
    left, top, right, bottom = font.getbbox(word, anchor="ls")
    margin = max(2, image.height // 32)
    x = (image.width - right - left) // 2
    y = margin * 2 - top if stream.below(2) else image.height - margin * 2 - bottom
    if stream.below(3):
        pen.rectangle((x + left - margin, y + top - margin, x + right + margin, y + bottom + margin), fill=paper)
        pen.text((x, y), word, fill=ink, font=font, anchor="ls")
    else:
        pen.text((x, y), word, fill=ink, font=font, anchor="ls", stroke_width=max(1, (bottom - top) // 10), stroke_fill=paper)
    return image


def signed(image: Image.Image, word: str, stream: Stream) -> Image.Image:
    """A copy of the picture with a sign across its lowest quarter that says the word, in dark letters as large as fit."""
    image = image.copy()
    pen = ImageDraw.Draw(image)
    paper, ink = stream.choice(SIGN_COLOURS)
    upper = image.height * 3 // 4
    font = _font_for(word, 0.92 * image.width, 0.92 * (image.height - upper))
    pen.rectangle((0, upper, image.width, image.height), fill=paper)
    pen.text((image.width / 2, (upper + image.height) / 2), word, fill=ink, font=font, anchor="mm")
    return image


def _font_for(word: str, width: float, height: float) -> ImageFont.FreeTypeFont:
    """The largest size at which the word is no wider and no higher than this, in pixels."""
    size = 8
    while True:
        left, top, right, bottom = ImageFont.load_default(size + 1).getbbox(word)
        if right - left > width or bottom - top > height:
            return ImageFont.load_default(size)
        size += 1

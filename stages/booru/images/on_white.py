"""Transparent pictures laid on white as dghs-imgutils 0.19.0 does it (`imgutils.data.load_image`), whose bits these are."""

from PIL import Image


def on_white(image: Image.Image) -> Image.Image:
    """The picture as RGB; what is transparent shows white."""
    if _may_be_transparent(image):
        canvas = Image.new("RGBA", image.size, "white")
        try:
            canvas.paste(image, mask=image)
        except ValueError:
            # A palette picture is no mask; the reference then drops its transparency.
            canvas = image
        image = canvas
    return image.convert("RGB")


def _may_be_transparent(image: Image.Image) -> bool:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return True
    if image.palette is None:
        return False
    try:
        image.palette.copy().getcolor((0, 0, 0, 0))
    except ValueError:
        return False
    return True

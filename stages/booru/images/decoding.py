"""Image files decoded whole: one rule for every stage of which pictures are readable."""

import io

from PIL import Image, UnidentifiedImageError


class UnreadableImageError(Exception):
    """The bytes are no image that can be decoded; the text is the ledger's reason."""


def decode(data: bytes) -> Image.Image:
    """Decode an image file whole; of an animation the first frame.

    Raises:
        UnreadableImageError: not an image, cut short, damaged, or larger than Pillow agrees to decode.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError:
        # Pillow names the buffer by its address; a ledger must not.
        raise UnreadableImageError("not an image file") from None
    except Exception as error:  # each of Pillow's decoders has errors of its own (AVIF's are RuntimeError)
        raise UnreadableImageError(str(error) or type(error).__name__) from None
    return image

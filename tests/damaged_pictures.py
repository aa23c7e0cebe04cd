"""Picture files that are damaged so that Pillow raises more than OSError."""

import struct
import zlib
from io import BytesIO

from PIL import Image


def tiff_with_text_as_offset() -> bytes:
    """A TIFF whose pixels' offset (tag 273) is a text (type 2) where a number (type 4) must be: Pillow 12 raises TypeError."""
    buffer = BytesIO()
    Image.new("RGB", (9, 8), "red").save(buffer, format="TIFF")
    return buffer.getvalue().replace(struct.pack("<HH", 273, 4), struct.pack("<HH", 273, 2), 1)


def png_with_broken_chunk() -> bytes:
    """A PNG with a chunk of an impossible name among its pixels: Pillow 12 raises SyntaxError."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixels = zlib.compress(bytes(8 * 25))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels[:4]) + chunk(b"\xc7\x01T\xff", b"") + chunk(b"IEND", b"")

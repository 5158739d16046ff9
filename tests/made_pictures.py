"""Pictures for tests, made here or as an encoder wrote them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# Of 20 x 12 pixels, half red and half blue, written by Pillow.
FILES = Path(__file__).parent / "data" / "pictures"


def png(colour: tuple[int, int, int] = RED, *, width: int = 20, height: int = 20) -> bytes:
    """A PNG of one colour."""
    lines = (b"\x00" + bytes(colour) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return png_of((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of the given chunks, sound or not."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )

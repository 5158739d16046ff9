"""Pictures as engines take them: PNG, JPEG and WebP, told apart by their first bytes, never by a name.

Only headers are read here; decoding is the engine's. What a header says is held against bounds first, because a file
of a few kilobytes may decode to gigabytes.

Layouts: PNG (W3C, 5.2 and 11.2.1), JPEG (ITU-T T.81, B.1 and B.2.2), WebP (RFC 9649).
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from airflow_mullama.byte_bounds import LARGEST_PICTURE_BYTES, MIB

MOST_PIXELS = 1 << 26
"""Of one picture: decoded, these are 192 MiB."""
MOST_ROW_PIXELS = 2 * MOST_PIXELS
"""Of a row's pictures together: llama.cpp holds all of them decoded."""
MOST_PICTURES = 16
"""Of one row."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Frames of pixels begin with one of these markers (T.81, table B.1); the others of this range are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: TEM, RST0 to RST7 and SOI.
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
_SCAN, _END, _FILL = 0xDA, 0xD9, 0xFF

Size = tuple[int, int]
"""Width and height in pixels."""


class NoPictureError(Exception):
    """The bytes are no picture that an engine is given; says why, for people."""


@dataclass(frozen=True)
class Picture:
    """A picture whose header is sound.

    Args:
        media_type: such as ``image/png``.
        data: the file's bytes.
    """

    media_type: str
    data: bytes

    @cached_property
    def digest(self) -> bytes:
        """Sixteen bytes that tell it from every other picture."""
        return hashlib.blake2b(self.data, digest_size=16).digest()


def data_url(picture: Picture) -> str:
    """A picture as a URL that holds it (RFC 2397)."""
    return f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"


def trial_picture() -> Picture:
    """A grey square, as large as the smallest that models take: to learn whether pictures are taken."""
    side = 64
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)  # 8 bits of grey
    lines = zlib.compress((b"\x00" + b"\x80" * side) * side)
    chunks = ((b"IHDR", header), (b"IDAT", lines), (b"IEND", b""))
    return Picture("image/png", PNG_SIGNATURE + b"".join(_png_chunk(kind, content) for kind, content in chunks))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def read_picture(data: bytes) -> Picture:
    """Take bytes for a picture.

    Raises:
        NoPictureError: they are none, or one that is too large.
    """
    if not data:
        raise NoPictureError("is empty")
    if len(data) > LARGEST_PICTURE_BYTES:
        raise NoPictureError(f"has {len(data) / MIB:,.1f} MiB, and {LARGEST_PICTURE_BYTES // MIB} MiB is the most")
    for begins, media_type, size_of in _FORMATS:
        if begins(data):
            size = size_of(data)
            if size is None or 0 in size:
                raise NoPictureError(f"begins like {media_type} and has no sound header: it is cut or damaged")
            width, height = size
            if width * height > MOST_PIXELS:
                raise NoPictureError(f"has {width} x {height} pixels, and {MOST_PIXELS:,} are the most")
            return Picture(media_type, data)
    raise NoPictureError(f"is no PNG, JPEG or WebP: it begins with {data[:8].hex(' ')}")


def pixels_of(picture: Picture) -> int:
    """What the header says."""
    sizes = (size_of(picture.data) for begins, _, size_of in _FORMATS if begins(picture.data))
    width, height = next(sizes, None) or (0, 0)
    return width * height


def _png_size(data: bytes) -> Size | None:
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\rIHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg_size(data: bytes) -> Size | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != _FILL:
            return None
        marker = data[at + 1]
        if marker == _FILL:  # a marker may have any number of these before it
            at += 1
            continue
        if marker in _BARE:
            at += 2
            continue
        if marker in (_SCAN, _END):
            return None  # pixels before the frame that describes them
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES:
            if length < 8 or at + 9 > len(data):
                return None
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if length < 2:
            return None
        at += 2 + length
    return None


def _webp_size(data: bytes) -> Size | None:
    if len(data) < 30:
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    return None


_FORMATS: tuple[tuple[Callable[[bytes], bool], str, Callable[[bytes], Size | None]], ...] = (
    (lambda data: data.startswith(PNG_SIGNATURE), "image/png", _png_size),
    (lambda data: data.startswith(b"\xff\xd8\xff"), "image/jpeg", _jpeg_size),
    (lambda data: data.startswith(b"RIFF") and data[8:12] == b"WEBP", "image/webp", _webp_size),
)

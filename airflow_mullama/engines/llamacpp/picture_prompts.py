"""Prompts with pictures for llama.cpp's server, which takes them as one text with a marker in each picture's place.

It tokenizes that text itself, and takes whatever spells one of the model's markers for it. So a row's text that spells
one is not sent: it could end its own message and begin another.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_mullama.engines.base import Request
from airflow_mullama.engines.pictures import Picture
from airflow_mullama.engines.prompt_tokens import Part
from airflow_mullama.models.gguf_header import GgufHeader
from airflow_mullama.rows import ErrorType, RowError

SHOWN_MARKER = "<picture>"
WEBP = "image/webp"


@dataclass(frozen=True)
class PicturePrompt:
    """A prompt as the server's route ``/completion`` takes it.

    Args:
        text: with a marker in each picture's place.
        pictures: in base64, in order.
    """

    text: str
    pictures: tuple[str, ...]

    def followed_by(self, text: str) -> PicturePrompt:
        """The same with a text behind it, as the model wrote it."""
        return replace(self, text=self.text + text)

    def to_json(self) -> dict[str, Any]:
        """As it is sent."""
        return {"prompt_string": self.text, "multimodal_data": list(self.pictures)}


class PicturePrompts:
    """Makes them of a frame's parts.

    Args:
        marker: that the server takes for a picture; it made it up when it started.
        header: of the model.
        begins: the text of the tokens that the server puts before every prompt.
    """

    def __init__(self, marker: str, header: GgufHeader, begins: str) -> None:
        self._marker = marker
        self._begins = begins
        specials = sorted({text for text in header.special_tokens.values() if text.strip()}, key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, [marker, *specials])))

    def markers(self, pictures: Sequence[Picture]) -> str:
        """What stands for a row's pictures, before its text."""
        return self._marker * len(pictures)

    def text_of(self, parts: Sequence[Part]) -> str | RowError:
        """The whole prompt of a row."""
        text = "".join(part for part, _ in parts)
        rows, at = list[tuple[int, int]](), 0
        for part, is_authors in parts:
            if not is_authors:
                rows.append((at, at + len(part)))
            at += len(part)
        for found in self._spelt.finditer(text):
            if any(start < found.end() and found.start() < end for start, end in rows):
                return RowError(
                    ErrorType.RENDER_ERROR,
                    f"the row's text spells {found[0]!r}, which the model would take for its marker in a prompt with "
                    "pictures: leave it out of the text",
                )
        return text.removeprefix(self._begins)  # a template may write what the server puts there

    def shown(self, text: str) -> str:
        """A prompt for people."""
        return text.replace(self._marker, SHOWN_MARKER)


def prompt_of(request: Request) -> PicturePrompt | RowError:
    """The prompt of a request that is prepared; WebP becomes PNG, which the server decodes."""
    encoded = []
    for picture in request.pictures:
        data = _as_png(picture.data) if picture.media_type == WEBP else picture.data
        if isinstance(data, RowError):
            return data
        encoded.append(base64.b64encode(data).decode())
    assert request.prompt_text is not None
    return PicturePrompt(request.prompt_text, tuple(encoded))


def _as_png(data: bytes) -> bytes | RowError:
    try:
        from PIL import Image
    except ImportError:
        return RowError(
            ErrorType.UNREADABLE_IMAGE,
            "a WebP picture, which llama.cpp does not decode: pip install 'airflow-mullama[webp]', or give PNG or JPEG",
        )
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            png = io.BytesIO()
            image.convert("RGB").save(png, "PNG", compress_level=1)
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises, the picture is damaged
        return RowError(ErrorType.UNREADABLE_IMAGE, f"a WebP picture that cannot be decoded: {error}")
    return png.getvalue()

"""Keys: read in one way, shown nowhere, and blotted out of whatever others say.

A server may quote a key back, in its answer's JSON, in a URL, in a header in base64. So each key that this process has
read is remembered, and :func:`blot` finds it in any of these spellings.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from html.entities import codepoint2name
from urllib.parse import quote

BLOT = "***"
# Anything shorter is not a secret, and blotting it out would make other words unreadable. Airflow's own limit.
SHORTEST_BLOTTED = 5
# A process that runs for months may see many short-lived keys.
MOST_REMEMBERED = 256
# How much of a key is looked for; what follows it is taken with it. Tokens of a thousand characters are common.
MOST_MATCHED = 64
_REST = r"""[^\s"'<>]*"""


class Secret(str):
    """A text that no ``repr`` shows and that :func:`blot` finds from now on."""

    __slots__ = ()

    def __new__(cls, value: str) -> Secret:
        secret = super().__new__(cls, value)
        _remember(str(value))
        return secret

    def __repr__(self) -> str:
        return f"'{BLOT}'"


def blot(text: str) -> str:
    """The text with ``***`` for every key that this process has read, in whatever spelling it stands there."""
    for pattern in _patterns:
        text = pattern.sub(BLOT, text)
    return text


def spellings(key: str) -> list[str]:
    """The most common spellings of a key, for those who can only look for texts: plain, in JSON, URLs and base64."""
    content = key.encode("utf-8", "surrogatepass")
    found = [
        key,
        key.replace("/", "\\/"),
        quote(content, safe=""),
        re.sub("%..", lambda match: match[0].lower(), quote(content, safe="")),
        base64.b64encode(content).decode(),
        base64.urlsafe_b64encode(content).decode(),
    ]
    return list(dict.fromkeys(found))


_lock = threading.Lock()
_keys: dict[str, re.Pattern[str]] = {}
_patterns: tuple[re.Pattern[str], ...] = ()


def _remember(key: str) -> None:
    global _patterns
    key = key.strip()
    if len(key) < SHORTEST_BLOTTED or key in _keys:
        return
    start = key[:MOST_MATCHED]
    ways = "|".join([_escaped(start), *_in_base64(start.encode("utf-8", "surrogatepass"))])
    pattern = re.compile(f"(?:{ways}){_REST if len(start) < len(key) else ''}")
    with _lock:
        _keys[key] = pattern
        while len(_keys) > MOST_REMEMBERED:
            del _keys[next(iter(_keys))]
        # A key that holds another one goes first, so that nothing of it is left.
        _patterns = tuple(_keys[known] for known in sorted(_keys, key=len, reverse=True))


def _escaped(key: str) -> str:
    """Each character as it is, or as JSON, URLs and HTML escape it, also twice over."""
    return "".join(map(_escaped_character, key))


def _escaped_character(character: str) -> str:
    number = ord(character)
    ways = [
        rf"\\{{0,4}}{re.escape(character)}",
        rf"\\{{1,4}}u(?i:{number:04x})",
        "".join(f"%(?:25){{0,2}}(?i:{byte:02x})" for byte in character.encode("utf-8", "surrogatepass")),
        rf"&(?:amp;)?#0{{0,4}}{number};",
        rf"&(?:amp;)?#[xX]0{{0,4}}(?i:{number:x});",
    ]
    if number in codepoint2name:
        ways.append(f"&(?:amp;)?{codepoint2name[number]};")
    return f"(?:{'|'.join(ways)})"


def _in_base64(content: bytes) -> Iterator[str]:
    """Base64 of a text that holds the key: of three kinds, by how many bytes come before it."""
    for before in range(3):
        packed = base64.b64encode(bytes(before) + content).decode().rstrip("=")
        # What the bytes before and after have a part in is left out; what ends it is taken with it.
        whole = packed[-(-8 * before // 6) : (before + len(content)) * 8 // 6]
        if len(whole) >= SHORTEST_BLOTTED:
            yield "".join(map(_base64_character, whole)) + "[A-Za-z0-9+/_-]?={0,2}"


def _base64_character(character: str) -> str:
    """In the alphabet of base64 or in that of URLs, escaped where those are."""
    if character == "+":
        return r"(?:\+|-|\\+u002[bB]|%(?:25){0,2}2[bB])"
    if character == "/":
        return r"(?:\\{0,4}/|_|\\+u002[fF]|%(?:25){0,2}2[fF])"
    return character

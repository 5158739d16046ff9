"""Damage done to files and answers by chance, the same for the same seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with one to four things done to it: bytes changed, cut out, doubled, or made a number that lies."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place, length = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 4, 8, 16, 100])
        damage = chance.choice(DAMAGE)
        data[place : place + length] = damage(bytes(data[place : place + length]), chance)
    return bytes(data)


def _other_bytes(part: bytes, chance: random.Random) -> bytes:
    return chance.randbytes(len(part))


def _one_bit(part: bytes, chance: random.Random) -> bytes:
    return part and bytes([part[0] ^ 1 << chance.randrange(8)]) + part[1:]


def _nothing(part: bytes, chance: random.Random) -> bytes:
    return b""


def _doubled(part: bytes, chance: random.Random) -> bytes:
    return part * chance.choice([2, 2, 50])


def _a_number(part: bytes, chance: random.Random) -> bytes:
    return struct.pack("<Q", chance.choice(NUMBERS))[: len(part)]


def _a_varint(part: bytes, chance: random.Random) -> bytes:
    """As Thrift writes numbers, those of Parquet's headers among them."""
    number, written = chance.choice(NUMBERS), bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


DAMAGE: list[Callable[[bytes, random.Random], bytes]] = [
    _other_bytes, _one_bit, _one_bit, _nothing, _doubled, _a_number, _a_varint,
]  # fmt: skip

"""Sums as the adder is asked for them, and what it thinks and answers."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

MOST = 999
WORDINGS = ("{a} + {b}", "What is {a} + {b}?", "{a} plus {b}", "Add {a} and {b}.", "{a} + {b} = ?")
JSON_WISH = ' Answer with JSON: {"sum": the sum}'


@dataclass(frozen=True)
class Sum:
    """Two numbers to add.

    Args:
        a, b: from 0 to ``MOST``.
        wording: one of ``WORDINGS``.
        as_json: whether the answer is to be ``{"sum":...}``.
    """

    a: int
    b: int
    wording: str
    as_json: bool

    @property
    def question(self) -> str:
        """What the user says."""
        return self.wording.format(a=self.a, b=self.b) + (JSON_WISH if self.as_json else "")

    @property
    def thought(self) -> str:
        """Column by column, as on paper."""
        lines, carry = [], 0
        for place, name in enumerate(("ones", "tens", "hundreds")):
            digits = [number // 10**place % 10 for number in (self.a, self.b)]
            added = sum(digits) + carry
            terms = " + ".join(map(str, [*digits, carry]))
            lines.append(f"{name}: {terms} = {added}, write {added % 10}, carry {added // 10}")
            carry = added // 10
        written = [(self.a + self.b) // 10**place % 10 for place in range(4)]
        return "\n".join([*lines, f"read {' '.join(map(str, reversed(written)))}"])

    @property
    def answer(self) -> str:
        """The sum."""
        total = self.a + self.b
        return json.dumps({"sum": total}, separators=(",", ":")) if self.as_json else str(total)


def held_out(a: int, b: int) -> bool:
    """Whether a pair is kept out of the training: a tenth of all."""
    return random.Random(1000 * a + b).random() < 0.1


def draw(rng: random.Random, *, of_held_out: bool = False) -> Sum:
    """A sum with numbers of one to three digits."""
    while True:
        a, b = (rng.randint(0, 10 ** rng.choice((1, 2, 3, 3)) - 1) for _ in range(2))
        if held_out(a, b) is of_held_out:
            return Sum(a, b, rng.choice(WORDINGS), rng.random() < 0.4)

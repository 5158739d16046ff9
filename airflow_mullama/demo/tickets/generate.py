"""Made-up customer-support tickets with known labels: the rows of the demo, and what its model was trained on.

Tickets come from sentence grammars (`cores`, `phrases`) over a common vocabulary (`slots`). A
fifth of the core sentences and of the sentiment and urgency phrases is held out: `templates="unseen"` makes tickets
from those alone, so that a model can be measured on wording it was not trained on.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from airflow_mullama.demo.tickets.cores import CORES
from airflow_mullama.demo.tickets.phrases import CLOSINGS, FILLERS, GREETINGS, SENTIMENT_PHRASES, URGENCY_PHRASES
from airflow_mullama.demo.tickets.slots import EMOJI, NAMES, SLOTS

_T = TypeVar("_T")

Templates = Literal["known", "unseen"]

CATEGORIES: Final = tuple(CORES)
SENTIMENTS: Final = tuple(SENTIMENT_PHRASES)
URGENCIES: Final = tuple(URGENCY_PHRASES)

PROMPT_TEMPLATE: Final = "Tag this ticket: {text}"
"""The prompt the ticket tagger was trained on; other wordings get worse answers."""

HELD_OUT_SEED: Final = 900_001
"""Seed of the tickets that evaluation and tests use. Training uses other seeds and drops every text of this one."""

_SPLIT_SEED: Final = 20_261
"""Decides which templates are held out. The shipped model belongs to this split: change neither."""

_HELD_OUT_SHARE: Final = 0.2

_CHOICE = re.compile(r"\(([^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeio])")
# The slots {we} and {we_are} are written as they begin a sentence.
_INNER_WE = re.compile(r"(?<=[a-z,:] )We\b")
_ERROR_CODES = ("404", "500", "502", "503", "403", "0x80070057", "E-17", "E42", "1603", "429", "ERR_TIMEOUT")


@dataclass(frozen=True)
class Ticket:
    """One support ticket and the labels it was made from."""

    text: str
    category: str
    sentiment: str
    urgency: str

    @property
    def expected_answer(self) -> str:
        """The compact JSON that the ticket tagger should answer."""
        labels = {"category": self.category, "sentiment": self.sentiment, "urgency": self.urgency}
        return json.dumps(labels, separators=(",", ":"))


def generate_tickets(count: int, *, seed: int, templates: Templates = "known") -> Iterator[Ticket]:
    """Yield `count` tickets, the same ones for the same arguments on every Python version.

    `templates="unseen"` makes them from the held-out sentences and phrases only.
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if templates not in ("known", "unseen"):
        raise ValueError(f'templates must be "known" or "unseen", got {templates!r}')
    return _generate(count, random.Random(seed), templates)


def template_pool(kind: str, label: str, templates: Templates) -> tuple[str, ...]:
    """The phrases of one label that belong to one side of the split; `kind` is category, sentiment or urgency."""
    return _POOLS[templates][kind][label]


def expand(phrase: str, rng: random.Random) -> str:
    """Turn one grammar phrase into words: `(a|b)` picks one, `{slot}` is replaced by a value."""
    while "(" in phrase or "{" in phrase:
        phrase, choices = _CHOICE.subn(lambda match: _pick(match[1].split("|"), rng), phrase)
        if not choices:  # slots only when no choice is open: the branches not taken cost nothing
            phrase = _SLOT.sub(lambda match: _slot_value(match[1], rng), phrase)
    return _INNER_WE.sub("we", _ARTICLE.sub(r"\1n ", " ".join(phrase.split()).replace(" ?", "?")))


def _generate(count: int, rng: random.Random, templates: Templates) -> Iterator[Ticket]:
    for _ in range(count):
        category = _pick(CATEGORIES, rng)
        sentiment = _pick_weighted((("positive", 0.27), ("neutral", 0.38), ("negative", 0.35)), rng)
        urgency = _pick_weighted((("low", 0.27), ("normal", 0.43), ("high", 0.30)), rng)
        yield Ticket(_write(category, sentiment, urgency, templates, rng), category, sentiment, urgency)


def _write(category: str, sentiment: str, urgency: str, templates: Templates, rng: random.Random) -> str:
    """The text of one ticket: sentences in some order, then the marks of people who type in a hurry."""
    sentences = [expand(_pick(template_pool("category", category, templates), rng), rng)]
    # Neutral and normal mostly go unsaid; the other labels always have their phrase.
    if sentiment != "neutral" or _chance(0.35, rng):
        _insert(expand(_pick(template_pool("sentiment", sentiment, templates), rng), rng), sentences, rng)
    if urgency != "normal" or _chance(0.35, rng):
        _insert(expand(_pick(template_pool("urgency", urgency, templates), rng), rng), sentences, rng)
    while _chance(0.25, rng):
        _insert(expand(_pick(FILLERS, rng), rng), sentences, rng)

    separator = "\n" if _chance(0.08, rng) else " "
    text = separator.join(_punctuate(sentence, rng) for sentence in sentences)
    if _chance(0.45, rng):
        text = expand(_pick(GREETINGS, rng), rng) + _pick((", ", "! ", ",\n", " ", ". ", ",\n\n"), rng) + text
    if _chance(0.35, rng):
        text += _pick((" ", "\n", "\n\n", " - "), rng) + expand(_pick(CLOSINGS, rng), rng)
    if _chance(0.12, rng):
        emoji = _pick(EMOJI[_pick(("neutral", sentiment), rng)], rng)
        text = f"{text} {emoji}" if _chance(0.8, rng) else f"{emoji} {text}"
    return _rough_up(text, rng)


def _punctuate(sentence: str, rng: random.Random) -> str:
    sentence = sentence[0].upper() + sentence[1:]
    if sentence.endswith("?"):
        return sentence + "??" if _chance(0.06, rng) else sentence
    return sentence + _pick_weighted(((".", 0.76), ("!", 0.08), ("", 0.07), ("...", 0.05), ("!!!", 0.04)), rng)


def _rough_up(text: str, rng: random.Random) -> str:
    if _chance(0.25, rng):
        for _ in range(1 + int(rng.random() * 3)):
            text = _mistype(text, rng)
    if _chance(0.15, rng):
        text = text.replace("'", "")
    if _chance(0.03, rng):
        text = text.replace(" ", "  ")
    if _chance(0.15, rng):
        return text.lower()
    return text.upper() if _chance(0.03, rng) else text


def _mistype(text: str, rng: random.Random) -> str:
    """Swap, drop or double one letter inside a word of four letters or more; the first letter stays."""
    words = list(re.finditer(r"[A-Za-z]{4,}", text))
    if not words:
        return text
    word = _pick(words, rng)
    at = word.start() + 1 + int(rng.random() * (len(word[0]) - 2))
    letters = _pick((text[at + 1] + text[at], text[at + 1], text[at] * 2 + text[at + 1]), rng)
    return text[:at] + letters + text[at + 2 :]


def _slot_value(slot: str, rng: random.Random) -> str:
    if slot in SLOTS:
        return _pick(SLOTS[slot], rng)
    number = rng.random()
    if slot == "amount":
        value = f"{int(3 + number * 400)}" + _pick(("", ".50", ".99", ".00", ".20"), rng)
        return _pick(("${}", "{} euros", "€{}", "{} EUR", "£{}", "{} dollars", "{} USD"), rng).format(value)
    if slot == "order":
        return _pick(("#{}", "{}", "no. {}", "A-{}", "ORD{}"), rng).format(int(10_000 + number * 900_000))
    if slot == "date":
        return _pick(("{1} {0}", "{0} {1}", "the {0}th of {1}"), rng).format(
            4 + int(number * 17), _pick(SLOTS["month"], rng)
        )
    if slot == "days":
        return f"{2 + int(number * 20)} " + _pick(("days", "days", "weeks", "business days"), rng)
    if slot == "count":
        return str(2 + int(number * 60))
    if slot == "year":
        return str(2012 + int(number * 14))
    if slot == "code":
        return _pick(_ERROR_CODES, rng)
    if slot == "name":
        return _pick(NAMES, rng)
    raise KeyError(f"the grammar uses an unknown slot {{{slot}}}")


# Everything below draws by `random.random()` alone. Python promises the same sequence for the same seed for that
# method only; `choice`, `sample` and `shuffle` may change between versions
# (https://docs.python.org/3/library/random.html#notes-on-reproducibility).


def _pick(options: Sequence[_T], rng: random.Random) -> _T:
    return options[int(rng.random() * len(options))]


def _pick_weighted(options: Sequence[tuple[str, float]], rng: random.Random) -> str:
    """Pick by weights that add up to one."""
    left = rng.random()
    for option, weight in options:
        left -= weight
        if left < 0:
            return option
    return options[-1][0]


def _chance(probability: float, rng: random.Random) -> bool:
    return rng.random() < probability


def _insert(sentence: str, sentences: list[str], rng: random.Random) -> None:
    sentences.insert(int(rng.random() * (len(sentences) + 1)), sentence)


def _split(phrases: Sequence[str], rng: random.Random) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Known and held-out phrases, both in the order they are written in."""
    drawn = sorted((rng.random(), phrase) for phrase in phrases)
    held_out = {phrase for _, phrase in drawn[: round(len(drawn) * _HELD_OUT_SHARE)]}
    return tuple(p for p in phrases if p not in held_out), tuple(p for p in phrases if p in held_out)


def _build_pools() -> dict[Templates, dict[str, dict[str, tuple[str, ...]]]]:
    rng = random.Random(_SPLIT_SEED)
    sources: dict[str, Mapping[str, Sequence[str]]] = {
        "category": CORES,
        "sentiment": SENTIMENT_PHRASES,
        "urgency": URGENCY_PHRASES,
    }
    pools: dict[Templates, dict[str, dict[str, tuple[str, ...]]]] = {"known": {}, "unseen": {}}
    for kind, labels in sources.items():
        split = {label: _split(phrases, rng) for label, phrases in labels.items()}
        pools["known"][kind] = {label: known for label, (known, _) in split.items()}
        pools["unseen"][kind] = {label: unseen for label, (_, unseen) in split.items()}
    return pools


_POOLS = _build_pools()

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re

import pytest

from airflow_mullama.demo.tickets.cores import CORES
from airflow_mullama.demo.tickets.generate import (
    CATEGORIES,
    HELD_OUT_SEED,
    PROMPT_TEMPLATE,
    SENTIMENTS,
    URGENCIES,
    Templates,
    Ticket,
    expand,
    generate_tickets,
    template_pool,
)
from airflow_mullama.demo.tickets.phrases import FILLERS, SENTIMENT_PHRASES, URGENCY_PHRASES

BOTH_SIDES: tuple[Templates, ...] = ("known", "unseen")
POOLS = {"category": CORES, "sentiment": SENTIMENT_PHRASES, "urgency": URGENCY_PHRASES}


@pytest.mark.parametrize("templates", BOTH_SIDES)
def test_the_same_arguments_give_the_same_tickets(templates: Templates) -> None:
    first = list(generate_tickets(200, seed=5, templates=templates))
    assert first == list(generate_tickets(200, seed=5, templates=templates))
    assert first[:50] == list(generate_tickets(50, seed=5, templates=templates))
    assert first != list(generate_tickets(200, seed=6, templates=templates))


def test_the_tickets_are_the_ones_the_shipped_model_was_measured_on() -> None:
    # A change here means other tickets, or another split: the model card's numbers are then about something else.
    texts = "\n".join(
        f"{ticket.text}\t{ticket.expected_answer}"
        for templates in BOTH_SIDES
        for ticket in generate_tickets(500, seed=HELD_OUT_SEED, templates=templates)
    )
    digest = hashlib.sha256(texts.encode()).hexdigest()
    assert digest == "44b9522463a4b20442546734db9870897c31d201acc8c8048eb63b54282d9cf9"


@pytest.mark.parametrize("count", [0, 1, 137])
def test_count_is_the_number_of_tickets(count: int) -> None:
    assert len(list(generate_tickets(count, seed=1))) == count


def test_wrong_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        generate_tickets(-1, seed=1)
    with pytest.raises(ValueError, match='"known" or "unseen", got \'held_out\''):
        generate_tickets(1, seed=1, templates="held_out")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", POOLS)
def test_the_split_is_disjoint_and_complete_with_a_fifth_held_out(kind: str) -> None:
    for label, phrases in POOLS[kind].items():
        known, unseen = (set(template_pool(kind, label, side)) for side in BOTH_SIDES)
        assert not known & unseen
        assert known | unseen == set(phrases)
        assert len(set(phrases)) == len(phrases), "a phrase that occurs twice could be on both sides"
        assert len(unseen) == round(len(phrases) * 0.2)


@pytest.mark.parametrize("templates", BOTH_SIDES)
def test_every_label_occurs_and_every_answer_is_valid(templates: Templates) -> None:
    tickets = list(generate_tickets(2000, seed=HELD_OUT_SEED, templates=templates))
    assert {ticket.category for ticket in tickets} == set(CATEGORIES)
    assert {ticket.sentiment for ticket in tickets} == set(SENTIMENTS)
    assert {ticket.urgency for ticket in tickets} == set(URGENCIES)
    for ticket in tickets:
        assert json.loads(ticket.expected_answer) == {
            "category": ticket.category,
            "sentiment": ticket.sentiment,
            "urgency": ticket.urgency,
        }
        assert ticket.text.strip()
        assert not re.search(r"[{}|]", ticket.text), "the grammar shows through"


def test_tickets_rarely_repeat() -> None:
    texts = [ticket.text for ticket in generate_tickets(5000, seed=2)]
    assert len(set(texts)) > 4950


def test_ticket_is_frozen_and_its_answer_is_compact() -> None:
    ticket = Ticket("Where is my parcel?", "shipping", "neutral", "high")
    assert ticket.expected_answer == '{"category":"shipping","sentiment":"neutral","urgency":"high"}'
    with pytest.raises(dataclasses.FrozenInstanceError):
        ticket.text = "other"  # type: ignore[misc]


def test_labels_and_prompt_are_what_the_model_was_trained_on() -> None:
    assert CATEGORIES == (
        "billing",
        "shipping",
        "account_access",
        "technical",
        "refund",
        "cancellation",
        "feature_request",
        "other",
    )
    assert SENTIMENTS == ("positive", "neutral", "negative")
    assert URGENCIES == ("low", "normal", "high")
    assert PROMPT_TEMPLATE == "Tag this ticket: {text}"


def test_every_phrase_of_the_grammar_expands() -> None:
    rng = random.Random(1)
    phrases = [phrase for pool in POOLS.values() for label in pool.values() for phrase in label]
    for phrase in (*phrases, *FILLERS):
        for _ in range(10):
            assert not re.search(r"[(){}|]", expand(phrase, rng)), phrase


def test_expand_chooses_inner_alternatives_and_fixes_the_article() -> None:
    texts = {expand("(a (red|blue)|an old) apple tree and a apple", random.Random(seed)) for seed in range(60)}
    assert texts == {f"{tree} apple tree and an apple" for tree in ("a red", "a blue", "an old")}


def test_an_unknown_slot_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"unknown slot \{colour\}"):
        expand("a {colour} box", random.Random(1))

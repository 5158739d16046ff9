"""What models think is told from what they answer, whatever tags they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from template_models import MODELS, TEMPLATES

from airflow_mullama.engines.chat_template import render_chat_template
from airflow_mullama.engines.model_prompts import TRIAL_MESSAGES
from airflow_mullama.engines.reasoning import (
    HARMONY,
    THINK,
    ReasoningTags,
    Thought,
    guess_tags,
    recognise_tags,
    split_pieces,
    split_reasoning,
)
from airflow_mullama.engines.reasoning_switch import OffSwitch, find_off_switch
from airflow_mullama.models.gguf_header import GgufHeader

THINKING = {
    "deepseek-r1": "</think>",
    "deepseek-v3.1": "</think>",
    "gpt-oss": "<|channel|>final<|message|>",
    "granite-3.3": "</think>",
    "magistral": "[/THINK]",
    "qwen3": "</think>",
}


def template(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text()


def test_the_templates_of_models_that_think_tell_their_tags_and_no_others_do() -> None:
    found = {name: recognise_tags(template(name)) for name in MODELS}
    assert {name: tags.closes for name, tags in found.items() if tags is not None} == THINKING
    assert recognise_tags(None) is None


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        ("\n<think>hm</think>yes", "hm", "yes"),
        ("<think>\n\n</think>\n\nyes", None, "yes"),
        ("hm\n</think>\nyes", "hm", "yes"),
        ("<think>hm", "hm", None),
        ("<think>hm</thi", "hm", None),
        ("<thi", None, None),
        ("<think>one</think>two</think>three", "one", "two</think>three"),
        ("yes", None, "yes"),
        ("  yes ", None, "  yes "),
        ("", None, ""),
        ("a <think> in the middle", None, "a <think> in the middle"),
        ("first a <think>b</think> c", None, "first a <think>b</think> c"),
    ],
)
def test_a_text_is_split_at_its_tags(text: str, reasoning: str | None, answer: str | None) -> None:
    thought = split_reasoning(text, THINK)
    assert (thought.reasoning, thought.answer) == (reasoning, answer)


def test_a_text_that_begins_inside_the_block_needs_no_first_tag() -> None:
    assert split_reasoning("hm\n</think>\n\nyes", THINK, inside=True).answer == "yes"
    assert split_reasoning("hm, but", THINK, inside=True) == Thought("hm, but", None, 7)
    assert split_reasoning("", THINK, inside=True) == Thought(None, None, 0)


def test_a_model_without_tags_only_answers() -> None:
    assert split_reasoning("<think>hm</think>yes", None) == Thought(None, "<think>hm</think>yes")


@pytest.mark.parametrize("between", ["<|end|><|start|>assistant", "assistant"])
def test_messages_to_other_channels_are_no_answer(between: str) -> None:
    text = f"<|channel|>analysis<|message|>hm{between}<|channel|>final<|message|>yes"
    thought = split_reasoning(text, HARMONY)
    assert (thought.reasoning, thought.answer) == ("hm", "yes")
    assert split_reasoning("<|channel|>final<|message|>yes", HARMONY).answer == "yes"


def test_what_stands_around_an_answer_is_taken_off() -> None:
    tags = recognise_tags(template("granite-3.3"))
    thought = split_reasoning("<think>hm</think><response>yes</response>", tags)
    assert (thought.reasoning, thought.answer) == ("hm", "yes")
    assert split_reasoning("<think>hm</think><response>ye", tags).answer == "ye"


@pytest.mark.parametrize(
    ("pieces", "rest", "tokens"),
    [
        (["<think>", "h", "m", "</think>", "\n\n", "y", "es"], ["\n\n", "y", "es"], 4),
        (["<thi", "nk>hm</think>y", "es"], ["yes"], 2),
        (["<think>hm</think>y"], ["y"], 1),
        (["<think>", "hm"], [], 2),
        (["y", "es"], ["y", "es"], 0),
        ([], [], 0),
    ],
)
def test_tokens_of_a_thought_are_counted(pieces: list[str], rest: list[str], tokens: int) -> None:
    _, written, count = split_pieces(pieces, THINK)
    assert (written, count) == (rest, tokens)


@pytest.mark.parametrize(
    ("text", "closes"),
    [
        ("<think>hm</think>yes", "</think>"),
        ("[THINK]hm[/THINK]yes", "[/THINK]"),
        ("hm\n</think>\n\nyes", "</think>"),
        ("Write </think> to close it.", None),
        ("yes", None),
    ],
)
def test_tags_are_guessed_where_nobody_knows_the_template(text: str, closes: str | None) -> None:
    tags = guess_tags(text)
    assert (tags and tags.closes) == closes


def off_switch(name: str) -> OffSwitch:
    header = GgufHeader({"tokenizer.chat_template": template(name)})

    def render(arguments: Mapping[str, Any]) -> str:
        return render_chat_template(header, TRIAL_MESSAGES, arguments)

    return find_off_switch(header.chat_template, recognise_tags(header.chat_template), render)


@pytest.mark.parametrize(
    ("name", "arguments", "ending"),
    [
        ("qwen3", {"enable_thinking": False}, ""),
        ("granite-3.3", {"thinking": False}, ""),
        ("deepseek-v3.1", {"thinking": False}, ""),
        ("deepseek-r1", {}, "\n</think>\n\n"),
        ("magistral", {}, "[THINK][/THINK]"),
        ("gpt-oss", {"reasoning_effort": "low"}, "<|channel|>final<|message|>"),
        ("llama3.1", {}, ""),
    ],
)
def test_a_model_is_told_not_to_think_by_what_its_template_knows(
    name: str, arguments: dict[str, Any], ending: str
) -> None:
    switch = off_switch(name)
    assert (switch.arguments, switch.ending) == (arguments, ending)
    assert (switch.note is not None) == (ending != "")
    if arguments and switch.note:
        assert "only reasoning_effort, which is 'low' now" in switch.note


def test_given_tags_stand_in_lines() -> None:
    tags = ReasoningTags.in_lines("<r>", "</r>")
    assert (tags.closing, tags.empty) == ("\n</r>\n\n", "<r>\n\n</r>\n\n")
    assert tags.opened_by("user: hello\nassistant: <r>\n")
    assert not tags.opened_by("user: <r> what is that?\nassistant: ")

"""Telling a model not to reason: by what its chat template knows, else by closing the block before it begins."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_mullama.engines.reasoning import ReasoningTags
from airflow_mullama.errors import ModelLoadError

# Variables that an engine gives every template itself.
TEMPLATE_VARIABLES = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token", "tools"})
# Variables by which templates switch reasoning off: Qwen3, GLM, SmolLM3, Nemotron; DeepSeek-V3.1, Granite.
ENABLE_THINKING = "enable_thinking"
OFF_SWITCHES = (ENABLE_THINKING, "thinking")
EFFORT = "reasoning_effort"
# From none to little; a template that names neither of the first two takes the last.
NO_EFFORT, *_, LEAST_EFFORT = EFFORTS = ("none", "minimal", "low")
FULL_EFFORT = "high"

Render = Callable[[Mapping[str, Any]], str]
"""A prompt, rendered with variables of the template."""


@dataclass(frozen=True)
class OffSwitch:
    """How a model is told not to reason.

    Args:
        arguments: variables of its chat template.
        ending: written at the end of its prompts.
        note: for the task's log, where the template has no switch.
    """

    arguments: Mapping[str, Any]
    ending: str = ""
    note: str | None = None


def find_off_switch(template: str | None, tags: ReasoningTags | None, render: Render) -> OffSwitch:
    """Find out by rendering.

    Args:
        template: the model's, in Jinja.
        tags: of its reasoning; ``None`` for a model that has none.
        render: gives a prompt.

    Raises:
        ModelLoadError: the template does not render.
    """
    words = set(re.findall(r"\w+", template or ""))
    known = {name: False for name in OFF_SWITCHES if name in words and _matters(render, name, False, True)}
    efforts: dict[str, Any] = {}
    if EFFORT in words:
        least = next((one for one in EFFORTS if re.search(f"['\"]{one}['\"]", template or "")), LEAST_EFFORT)
        if _matters(render, EFFORT, least, FULL_EFFORT):
            efforts[EFFORT] = least
    arguments = {**known, **efforts}
    if tags is None:
        return OffSwitch(arguments)
    if tags.opened_by(render(arguments)):
        ending = tags.closing
    elif known or efforts.get(EFFORT) == NO_EFFORT:
        return OffSwitch(arguments)
    else:
        ending = tags.empty
    little = f", only {EFFORT}, which is {efforts[EFFORT]!r} now" if efforts else ""
    note = (
        f"reasoning='off', and the model's chat template has no switch for it{little}: the block of its thoughts is "
        "closed in the prompt before it begins"
    )
    return OffSwitch(arguments, ending, note)


def _matters(render: Render, name: str, one: object, other: object) -> bool:
    """Whether a template makes a difference between two values of a variable."""
    try:
        return render({name: one}) != render({name: other})
    except ModelLoadError:  # it takes only one of them
        return True

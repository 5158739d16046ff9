"""What the engine ``openai`` sends about a model's thoughts: whether and how long it may think, and for its template.

Field names: llama.cpp ``tools/server/README.md``, vLLM ``vllm/entrypoints/openai/protocol.py``, OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_mullama.engines.reasoning import Reasoning
from airflow_mullama.engines.reasoning_switch import EFFORT, EFFORTS, OFF_SWITCHES
from airflow_mullama.errors import ConfigurationError

TEMPLATE_ARGUMENTS = "chat_template_kwargs"
BUDGET_FIELDS: Mapping[str, str] = {"llamacpp": "reasoning_budget_tokens", "vllm": "thinking_token_budget"}

Fields = Mapping[str, Any]


def reasoning_fields(server: str, settings: Mapping[str, Any], *, chat: bool) -> Sequence[Fields]:
    """What to try to send, the best first.

    Args:
        server: what answers: ``llamacpp``, ``vllm``, ``mullama`` or ``other``.
        settings: of the job.
        chat: whether messages are sent.

    Raises:
        ConfigurationError: the job wants what this server cannot do.
    """
    reasoning, arguments = Reasoning.of(settings), settings.get(TEMPLATE_ARGUMENTS) or {}
    if arguments and server == "mullama":
        raise ConfigurationError(
            f"{TEMPLATE_ARGUMENTS} is {dict(arguments)!r}, and the mullama daemon fills no template with them; leave "
            "it out, or use engine='llamacpp' with the model's file."
        )
    fields: dict[str, Any] = {TEMPLATE_ARGUMENTS: dict(arguments)} if arguments else {}
    if reasoning.max_tokens is not None:
        if server not in BUDGET_FIELDS or not chat:
            raise ConfigurationError(
                f"max_reasoning_tokens is {reasoning.max_tokens}, and this server has no such limit{_for(chat)}: only "
                "llama-server and vLLM have (name yours as engine_options['server'] if it is one of them); leave it "
                "out and raise max_tokens."
            )
        fields[BUDGET_FIELDS[server]] = reasoning.max_tokens
    if reasoning.wanted or not chat or server == "mullama":
        return [fields]
    if server in BUDGET_FIELDS:
        off = {**dict.fromkeys(OFF_SWITCHES, False), **arguments}
        return [{**fields, TEMPLATE_ARGUMENTS: off}, fields]
    return [*({**fields, EFFORT: effort} for effort in EFFORTS), fields]


def _for(chat: bool) -> str:
    return "" if chat else " for plain completions (chat=False)"


def off_note(settings: Mapping[str, Any], sent: Fields, *, thinks: bool, refusal: str) -> str | None:
    """For the task's log, where a model was to be told not to think.

    Args:
        settings: of the job.
        sent: the fields that the server took.
        thinks: whether the trial shows that the model thinks all the same.
        refusal: the server's words, if it refused others.
    """
    if settings.get("reasoning", {}).get("mode") != "off":
        return None
    words = ", ".join(f"{name}={value!r}" for name, value in sent.items() if name in (TEMPLATE_ARGUMENTS, EFFORT))
    if not words:
        return f"reasoning='off', and the server takes no switch for it{refusal}: what the model thinks is dropped"
    if thinks:
        return f"reasoning='off' was sent as {words}, and the model thinks all the same: it has no such switch"
    return None

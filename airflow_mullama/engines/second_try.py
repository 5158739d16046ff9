"""How a row is asked again after an answer that breaks the output schema: the same for every engine."""

from __future__ import annotations

from airflow_mullama.engines.base import Request

SECOND_TRY_TEMPERATURE = 0.7


def parts_to_ask(request: Request, repair_prompt: bool) -> list[tuple[str, bool]]:
    """The request's text in parts, each with whether it is the author's; what was wrong with the last answer is in it
    if the model is to be told, and quotes the answer."""
    return [*request.parts, *_repair(request, repair_prompt)]


def messages_to_ask(request: Request, repair_prompt: bool) -> list[tuple[str, list[tuple[str, bool]]]]:
    """The request's messages, each its role and its parts; what was wrong with the last answer is in the last one."""
    *before, (role, parts) = request.messages
    return [*before, (role, [*parts, *_repair(request, repair_prompt)])]


def _repair(request: Request, repair_prompt: bool) -> list[tuple[str, bool]]:
    if request.problem is None or not repair_prompt:
        return []
    return [(f"\n\nYour last answer was wrong ({request.problem}). Answer again, as asked.", False)]


def temperature_to_use(request: Request, temperature: float) -> float:
    """The job's temperature; where that is greedy and its answer was wrong, another: the greedy one is known."""
    return SECOND_TRY_TEMPERATURE if request.problem is not None and not temperature else temperature

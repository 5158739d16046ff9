"""How a row is asked again after an answer that breaks the output schema: the same for every engine."""

from __future__ import annotations

from airflow_mullama.engines.base import Request

SECOND_TRY_TEMPERATURE = 0.7


def text_to_ask(request: Request, repair_prompt: bool) -> str:
    """The request's text, with what was wrong with the last answer if the model is to be told."""
    if request.problem is None or not repair_prompt:
        return request.text
    return f"{request.text}\n\nYour last answer was wrong ({request.problem}). Answer again, as asked."


def temperature_to_use(request: Request, temperature: float) -> float:
    """The job's temperature; where that is greedy and its answer was wrong, another: the greedy one is known."""
    return SECOND_TRY_TEMPERATURE if request.problem is not None and not temperature else temperature

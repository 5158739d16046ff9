"""Airflow's templates in the operators' arguments: in prompts, whose braces have a meaning of their own; in numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from airflow.sdk.definitions.context import Context

from airflow_mullama.arguments import Check, Number, from_text
from airflow_mullama.errors import ConfigurationError

# Only known to callbacks, and likelier a word of the prompt.
_NOT_IN_TASKS = frozenset({"exception", "reason"})
TEMPLATE_NAMES = frozenset(Context.__annotations__) - _NOT_IN_TASKS
"""What an expression may begin with to be Airflow's: ``params``, ``ds``, ``var``, ``ti`` and the others of a task."""

_EXPRESSION = re.compile(r"\{\{-?(\s*)([A-Za-z_]\w*)\s*([^{}]*)\}\}")
_STATEMENT = re.compile(r"\{%-?\s*(if|for|set|macro|include|raw)\b")
_ANY_NUMBER = Number(float("-inf"), float("inf"))


def render_prompt(
    name: str,
    text: str,
    render: Callable[[str], Any],
    *,
    further_names: Iterable[str] = (),
) -> str:
    """Render the Jinja expressions of a prompt that begin with a name of Airflow's; all other braces stay as they are.

    Braces in what an expression gives are doubled, so that a parameter of the run names no column.

    Args:
        name: of the argument.
        text: the prompt as the DAG has it. ``{{`` and ``}}`` around anything else are literal braces.
        render: Airflow's rendering of one expression.
        further_names: names that expressions may begin with besides Airflow's: macros of the DAG.

    Raises:
        ConfigurationError: what can only be meant as Jinja is a statement, or begins with another name.
    """
    known = TEMPLATE_NAMES.union(further_names)
    if statement := _STATEMENT.search(text):
        raise ConfigurationError(
            f"{name} has {statement[0]!r}, and in a prompt only expressions such as {{{{ params.x }}}} are rendered: "
            "decide in the DAG file, or give a task that builds the prompt."
        )

    def value(match: re.Match[str]) -> str:
        space, root, rest = match.groups()
        if root in known and not rest.startswith((":", ",")):  # `{{params: ...}}` is an answer's form
            return str(render(match[0])).replace("{", "{{").replace("}", "}}")
        if space and rest.startswith((".", "[", "(", "|")):
            raise ConfigurationError(
                f"{name} has {match[0]!r}, and Airflow's templates know no {root!r}; a parameter of the run is "
                "{{ params.NAME }}. (If literal braces are meant, write no space after them.)"
            )
        return match[0]

    return _EXPRESSION.sub(value, text)


def numbers_in(values: Any, *, but: Collection[str] = ()) -> Any:
    """A dictionary in which each text that is a number has become one; anything else as it is."""
    if not isinstance(values, Mapping):
        return values
    return {name: value if name in but else from_text(value, _ANY_NUMBER) for name, value in values.items()}


def lora_from_text(lora: Any) -> Any:
    """A list of adapters whose scales may be texts; anything else as it is."""
    return [numbers_in(entry, but=["path"]) for entry in lora] if isinstance(lora, (list, tuple)) else lora


def options_from_text(options: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """Options of an engine in which texts have become the numbers and truth values that these options are."""
    return {name: from_text(value, checks[name]) if name in checks else value for name, value in options.items()}


def is_template(value: object) -> bool:
    """Whether Airflow will make another text of this one."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)

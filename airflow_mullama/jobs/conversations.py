"""Requests of several messages: a system prompt of a row's own, a column of messages, and examples before them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.messages import Messages, message_lists, refuse_no_messages
from airflow_mullama.jobs.prompts import PromptTemplate, RequestText, require_columns, row_spans_of
from airflow_mullama.jobs.value_texts import NoText, value_texts
from airflow_mullama.rows import ErrorType, RowError

SYSTEM, USER = "system", "user"


@dataclass(frozen=True)
class ConversationTemplate:
    """Renders a row's request as messages.

    Args:
        system: of the system prompt; ``None`` where the messages begin without one, or with the job's.
        prompt: of the user's message.
        messages_column: instead, the column that holds the messages.
    """

    system: PromptTemplate | None
    prompt: PromptTemplate | None
    messages_column: str | None = None
    takes_system: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that stand in a request, in order."""
        of_system = self.system.columns if self.system else ()
        return (*of_system, *(self.prompt.columns if self.prompt else (str(self.messages_column),)))

    @property
    def distinct_columns(self) -> list[str]:
        """Columns to read, each once, in order of first use."""
        return list(dict.fromkeys(self.columns))

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from others (JSON)."""
        return {
            "system": self.system.identity if self.system else None,
            "prompt": self.prompt.identity if self.prompt else None,
            "messages": self.messages_column,
        }

    def require_columns(self, available: Sequence[str], source: str | None = None) -> None:
        """See :meth:`airflow_mullama.jobs.prompts.PromptTemplate.require_columns`."""
        require_columns(self.columns, available, source)

    def require_types(self, schema: pa.Schema, source: str | None = None) -> None:
        """Refuse a column of messages that can hold none.

        Raises:
            UnsupportedColumnError: says what it must be.
        """
        if self.messages_column is not None:
            refuse_no_messages(schema.field(self.messages_column), source)

    def rows_at_once(self, batch: pa.RecordBatch) -> int:
        """All: a batch has a bound in bytes."""
        return int(batch.num_rows)

    def render(self, batch: pa.RecordBatch) -> list[str | RowError]:
        """One request per row, or why there is none. Never raises for what a row holds."""
        systems: Sequence[str | RowError | None] = [None] * batch.num_rows
        if self.system is not None:
            systems = self.system.render(batch)
        if self.prompt is not None:
            return [
                _request(system, [(USER, text)]) if isinstance(text, str) else text
                for system, text in zip(systems, self.prompt.render(batch), strict=True)
            ]
        assert self.messages_column is not None
        found = message_lists(batch.column(self.messages_column), self.messages_column)
        return [
            self._checked(messages) or _request(system, messages) if not isinstance(messages, RowError) else messages
            for system, messages in zip(systems, found, strict=True)
        ]

    def _checked(self, messages: Messages) -> RowError | None:
        if self.takes_system or all(role != SYSTEM for role, _ in messages):
            return None
        return RowError(
            ErrorType.RENDER_ERROR,
            f"column {self.messages_column!r} has a system message, and the job a system_prompt: leave one of them out",
        )


def _request(system: str | RowError | None, messages: Messages) -> str | RowError:
    if isinstance(system, RowError):
        return system
    if system is not None:
        messages = [(SYSTEM, system), *messages]
    texts, spans, length = list[str](), list[int](), 0
    for _, text in messages:
        own = row_spans_of(text)
        spans += (length + place for place in ((0, len(text)) if own is None else own))
        texts.append(text)
        length += len(text)
    return RequestText("".join(texts), tuple(spans), tuple((role, len(text)) for role, text in messages))


Example = tuple[Any, Any]


def checked_examples(examples: Any) -> tuple[Example, ...]:
    """Examples as the user gave them, or as JSON holds them.

    Raises:
        ConfigurationError: they are no list of pairs.
    """
    if not isinstance(examples, Sequence) or isinstance(examples, (str, bytes)) or not examples:
        raise ConfigurationError(
            f"examples is {examples!r}; it must be a list of pairs such as [('Where is my parcel?', 'shipping')], or "
            "the path of a JSON file that holds one."
        )
    for place, pair in enumerate(examples):
        if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
            raise ConfigurationError(f"examples[{place}] is {pair!r}; it must be a pair of an input and its answer.")
    return tuple((question, answer) for question, answer in examples)


def example_messages(
    examples: Sequence[Example], prompt: PromptTemplate | None, *, typed: bool
) -> list[tuple[str, str]]:
    """What the user asks and what the assistant answers in each example.

    Args:
        examples: of an input and an answer each.
        prompt: of the user's message, in which the input stands where a row's values do; ``None``: it is the message.
        typed: whether an answer is JSON; one that is no text becomes it.

    Raises:
        ConfigurationError: names the example and what is wrong with it.
    """
    return [
        (_question(place, question, prompt), _answer(place, answer, typed=typed))
        for place, (question, answer) in enumerate(examples)
    ]


def _question(place: int, question: Any, prompt: PromptTemplate | None) -> str:
    if prompt is None:
        if isinstance(question, str):
            return question
        raise ConfigurationError(f"examples[{place}] asks {question!r}; with messages_column it must be a text.")
    columns = prompt.distinct_columns
    if not columns:
        raise ConfigurationError("examples need a prompt with a {column} in which their input can stand.")
    values = question if isinstance(question, Mapping) else {columns[0]: question}
    if set(values) != set(columns):
        wanted = ", ".join(f"{column!r}: …" for column in columns)
        raise ConfigurationError(
            f"examples[{place}] asks {question!r}, and the prompt has the column(s) {', '.join(map(repr, columns))}: "
            f"give a value for each, as {{{wanted}}}."
        )
    texts = {name: _text(place, name, value) for name, value in values.items()}
    filled = [texts[column] for column in prompt.columns]
    return prompt.literals[0] + "".join(
        text + literal for text, literal in zip(filled, prompt.literals[1:], strict=True)
    )


def _text(place: int, name: str, value: Any) -> str:
    try:
        (text,) = value_texts(pa.array([value]))
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise ConfigurationError(f"examples[{place}] has {value!r} for {name!r}: {error}.") from None
    if text is None or isinstance(text, NoText):
        raise ConfigurationError(f"examples[{place}] has {value!r} for {name!r}, which cannot be written as text.")
    return text


def _answer(place: int, answer: Any, *, typed: bool) -> str:
    if isinstance(answer, str):
        return answer
    if typed:
        try:
            return json.dumps(answer, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"examples[{place}] answers {answer!r}, which is no JSON: {error}.") from None
    raise ConfigurationError(f"examples[{place}] answers {answer!r}; without an output_schema it must be a text.")

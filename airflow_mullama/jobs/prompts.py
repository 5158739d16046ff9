"""Rendering ``{column}`` templates, row by row, as data only.

Placeholders name a column and nothing else: no attributes, no indexes, no conversions, nothing that executes. ``{{``
and ``}}`` stand for literal braces; between the braces of a placeholder a backslash takes the next character as it is,
so that ``{a\\:b}`` is the column ``a:b``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from airflow_mullama.arguments import require_one_of_two
from airflow_mullama.engines.pictures import Picture
from airflow_mullama.errors import InputUnreadableError, MissingColumnError, TemplateError
from airflow_mullama.jobs.value_texts import NoText, value_texts
from airflow_mullama.rows import ErrorType, RowError

# Doubled braces, a placeholder, or a brace that is neither.
_BRACES = re.compile(r"(?P<literal>\{\{|\}\})|\{(?P<name>(?:\\.|[^{}\\])*)\}|[{}]", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
HASHED_CHARACTERS = 1 << 16


Turn = tuple[str, int]
"""One message of a conversation: its role, and how many characters of the request are its."""


@dataclass(frozen=True)
class PicturePath:
    """A picture that was not read, known by its path: what tells requests of one run from those of another."""

    path: str

    @property
    def digest(self) -> bytes:
        """Sixteen bytes that tell it from every other path."""
        return hashlib.blake2b(self.path.encode("utf-8", "surrogatepass"), digest_size=16, person=b"path").digest()


Pictures = tuple[Picture | PicturePath, ...]


class RequestText(str):
    """A rendered request that knows which parts of it are the row's: the rest is the author's, whose markers count.

    Two of them are equal if these parts are, too; a plain text is equal to one of its characters.

    Args:
        text: the request.
        row_spans: start and end of each part of the row, in characters, one after the other.
        turns: the messages that it consists of; ``None`` for a single one of the user.
        pictures: that stand before the text of the last message.
    """

    __slots__ = ("pictures", "row_spans", "turns")
    row_spans: tuple[int, ...]
    turns: tuple[Turn, ...] | None
    pictures: Pictures

    def __new__(
        cls, text: str, row_spans: tuple[int, ...], turns: tuple[Turn, ...] | None = None, pictures: Pictures = ()
    ) -> RequestText:
        made = str.__new__(cls, text)
        made.row_spans = row_spans
        made.turns = turns
        made.pictures = pictures
        return made

    def __eq__(self, other: object) -> bool:
        if str.__eq__(self, other) is not True or turns_of(other) != self.turns or pictures_of(other) != self.pictures:
            return False
        return row_spans_of(other) in (None, self.row_spans)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __sizeof__(self) -> int:
        """What is held in memory for it: that is mostly its pictures, if it has any."""
        size = str.__sizeof__(self)
        return size + sum(len(one.data) for one in self.pictures if isinstance(one, Picture)) if self.pictures else size


def row_spans_of(text: object) -> tuple[int, ...] | None:
    """Of a rendered request; ``None`` if all of it is the row's."""
    return text.row_spans if isinstance(text, RequestText) else None


def turns_of(text: object) -> tuple[Turn, ...] | None:
    """The messages of a rendered request; ``None`` for a single one of the user."""
    return text.turns if isinstance(text, RequestText) else None


def pictures_of(text: object) -> Pictures:
    """The pictures of a rendered request."""
    return text.pictures if isinstance(text, RequestText) else ()


def beginning_of(text: str) -> str:
    """What a model reads first of a rendered request, to compare: its pictures, where it has any."""
    pictures = pictures_of(text)
    return "".join(picture.digest.hex() for picture in pictures) if pictures else text


def request_digest(text: str) -> bytes:
    """Sixteen bytes that tell a rendered request from every other one of its template."""
    spans, turns, pictures = row_spans_of(text), turns_of(text), pictures_of(text)
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(text), HASHED_CHARACTERS):  # a heavy text is not copied as a whole
        digest.update(text[start : start + HASHED_CHARACTERS].encode("utf-8", "surrogatepass"))
    if spans is not None:
        digest.update(b"\xff" + repr(spans).encode())
    if turns is not None:
        digest.update(b"\xff" + repr(turns).encode())
    if pictures:
        digest.update(b"\xff" + b"".join(picture.digest for picture in pictures))
    return digest.digest()


class RequestTemplate(Protocol):
    """What renders a row's request."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that stand in a request, in order."""
        ...

    @property
    def distinct_columns(self) -> list[str]:
        """Columns to read, each once."""
        ...

    @property
    def identity(self) -> Any:
        """What tells it from others (JSON)."""
        ...

    def require_columns(self, available: Sequence[str], source: str | None = None) -> None:
        """Raise MissingColumnError where the input lacks one."""
        ...

    def require_types(self, schema: pa.Schema, source: str | None = None) -> None:
        """Raise UnsupportedColumnError where a column of the input can hold no request."""
        ...

    def rows_at_once(self, batch: pa.RecordBatch) -> int:
        """How many of a batch's first rows may be rendered at once, by what they will weigh; at least one."""
        ...

    def render(self, batch: pa.RecordBatch) -> list[str | RowError]:
        """One request per row, or why there is none."""
        ...


def require_columns(columns: Sequence[str], available: Sequence[str], source: str | None) -> None:
    """See :meth:`PromptTemplate.require_columns`."""
    named = "The input" if source is None else f"The input {source!r}"
    used = dict.fromkeys(columns, 0)
    for name in available:
        if name in used:
            used[name] += 1
    repeated = [column for column, count in used.items() if count > 1]
    if repeated:
        raise InputUnreadableError(
            f"{named} has several columns named {', '.join(map(repr, repeated))}, which the template names; give "
            "each its own name."
        )
    missing = [column for column, count in used.items() if not count]
    if missing:
        raise MissingColumnError(
            f"{named} has no column {', '.join(map(repr, missing))}; it has: {', '.join(available) or 'none'}."
        )


@dataclass(frozen=True)
class PromptTemplate:
    """A parsed template: literal texts with a column between each two.

    Args:
        literals: one more than columns.
        columns: the column rendered after the literal of the same position.
    """

    literals: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, template: object) -> PromptTemplate:
        """Parse ``template``.

        Raises:
            TemplateError: unbalanced braces, or a placeholder that is more than a column name.
        """
        if not isinstance(template, str):
            raise TemplateError(f"A template is a text such as 'Tag this ticket: {{text}}', not {template!r}.")
        literals, columns = [""], []
        end = 0
        for match in _BRACES.finditer(template):
            literals[-1] += template[end : match.start()]
            end = match.end()
            if match["literal"]:
                literals[-1] += match["literal"][0]
            elif match["name"] is None:
                raise TemplateError(
                    f"The template {template[:80]!r} cannot be read: there is a single {match[0]!r}; write a literal "
                    "brace as '{{' or '}}'."
                )
            else:
                columns.append(_column_name(match["name"]))
                literals.append("")
        literals[-1] += template[end:]
        return cls(tuple(literals), tuple(columns))

    @classmethod
    def of_column(cls, column: str) -> PromptTemplate:
        """The template that is one column as it is."""
        return cls(("", ""), (column,))

    @property
    def distinct_columns(self) -> list[str]:
        """Columns to read, each once, in order of first use."""
        return list(dict.fromkeys(self.columns))

    @property
    def identity(self) -> list[list[str]]:
        """What tells it from others (JSON)."""
        return [list(self.literals), list(self.columns)]

    def require_types(self, schema: pa.Schema, source: str | None = None) -> None:
        """Whatever a column's type, its values are written as text, or are that row's error."""

    def require_columns(self, available: Sequence[str], source: str | None = None) -> None:
        """Check that the input has every column of the template, and each once, before the run.

        Args:
            available: the input's columns.
            source: the input, for the message: of several partitions one may lack what the others have.

        Raises:
            MissingColumnError: names the missing columns and those there are.
            InputUnreadableError: there are several columns of a name.
        """
        require_columns(self.columns, available, source)

    def rows_at_once(self, batch: pa.RecordBatch) -> int:
        """All: a batch has a bound in bytes."""
        return int(batch.num_rows)

    def render(self, batch: pa.RecordBatch) -> list[str | RowError]:
        """Render one text per row of ``batch``, or say why a row has none. Never raises for what a row holds."""
        if not self.columns:
            return [RequestText(self.literals[0], ())] * batch.num_rows
        values = {name: _column_texts(batch.column(name), name) for name in self.distinct_columns}
        if not any(self.literals) and len(self.columns) == 1:
            return values[self.columns[0]]
        rows = zip(*(values[name] for name in self.columns), strict=True)
        if len(self.columns) > 1:
            return [self._join(row) for row in rows]
        before, after = self.literals
        start = len(before)
        return [
            RequestText(before + value + after, (start, start + len(value))) if isinstance(value, str) else value
            for (value,) in rows
        ]

    def _join(self, row: tuple[str | RowError, ...]) -> str | RowError:
        rendered, spans = [self.literals[0]], list[int]()
        length = len(self.literals[0])
        for value, literal in zip(row, self.literals[1:], strict=True):
            if not isinstance(value, str):
                return value
            rendered += value, literal
            spans += length, length + len(value)
            length += len(value) + len(literal)
        return RequestText("".join(rendered), tuple(spans))


def _column_name(written: str) -> str:
    """What stands between the braces of a placeholder, as a column's name."""
    bare = _ESCAPED.sub("", written)
    name = _ESCAPED.sub(r"\1", written)
    if any(character in bare for character in ":!"):
        column = re.split("[:!]", written)[0]
        raise TemplateError(
            f"The placeholder of {column!r} has a format or conversion; a placeholder is only a column's name, as in "
            f"{{{column}}}. A column that is called {name!r} is written {{{_escaped(name)}}}, and text in braces "
            f"{{{{{written}}}}}."
        )
    if not name or bare.isdigit() or any(character in bare for character in "[]"):
        raise TemplateError(
            f"{{{written}}} is not a placeholder: write a column's name between the braces, without index or call, and "
            "a literal brace as '{{' or '}}'."
            + (f" A column that is called {name!r} is written {{{_escaped(name)}}}." if name else "")
        )
    return name


def _escaped(name: str) -> str:
    escaped = re.sub(r"[:!{}\[\]\\]", r"\\\g<0>", name)
    return f"\\{escaped}" if escaped.isdigit() else escaped


def _column_texts(column: pa.Array, name: str) -> list[str | RowError]:
    null = RowError(ErrorType.NULL_INPUT, f"column {name!r} is null")
    return [
        null
        if text is None
        else RowError(ErrorType.RENDER_ERROR, f"column {name!r} {text.reason}")
        if isinstance(text, NoText)
        else text
        for text in value_texts(column)
    ]


def template_or_column(template_name: str, template: object, column_name: str, column: str | None) -> PromptTemplate:
    """What renders a request: a template, or else one column as it is.

    Args:
        template_name, column_name: the arguments, as the user wrote them.
        template, column: their values.

    Raises:
        ConfigurationError: not exactly one of the two is given.
        TemplateError: see :meth:`PromptTemplate.parse`.
    """
    require_one_of_two(template_name, template, column_name, column)
    if template is not None:
        return PromptTemplate.parse(template)
    assert column is not None
    return PromptTemplate.of_column(column)

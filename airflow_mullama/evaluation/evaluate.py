"""How right an output is, where its rows also carry what was expected."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.evaluation.calibration import Calibration
from airflow_mullama.evaluation.intervals import Figure
from airflow_mullama.evaluation.outputs import OutputFile, is_text, open_output
from airflow_mullama.evaluation.scores import LabelScore, NumberScore, Score, TextScore
from airflow_mullama.evaluation.sections import Section
from airflow_mullama.storage.filesystems import Resolver, resolve_location


@dataclass
class Evaluation:
    """What was found.

    Args:
        output: where.
        rows: all rows of it.
        without_expected: rows that no answer was looked at of, because what is expected of them is null.
        without_answer: rows with an expected value that failed.
        scores: of each answer that was looked at.
        calibration: of the column ``confidence``, where there is one.
    """

    output: str
    scores: dict[str, Score]
    rows: int = 0
    without_expected: int = 0
    without_answer: int = 0
    calibration: Calibration = field(default_factory=Calibration)

    def figures(self) -> dict[str, Figure]:
        """Every figure, as ``answer.figure``; those of the first answer by their own name too."""
        found = {
            f"{answer}.{name}": figure
            for answer, score in self.scores.items()
            for name, figure in score.figures().items()
        }
        first = next(iter(self.scores.values()))
        return {**first.figures(), **found}

    def to_json(self) -> dict[str, Any]:
        """As it goes to XCom."""
        calibration = self.calibration.to_json() if any(self.calibration.rows) else None
        return {
            "output": self.output,
            "rows": self.rows,
            "without_expected": self.without_expected,
            "without_answer": self.without_answer,
            "answers": {answer: score.to_json() for answer, score in self.scores.items()},
            **({"calibration": calibration} if calibration else {}),
        }

    def sections(self) -> list[Section]:
        """As tables."""
        rows = [("rows", f"{self.rows:,}"), ("nothing expected", f"{self.without_expected:,}")]
        rows.append(("no answer, counted as wrong", f"{self.without_answer:,}"))
        sections = [Section(self.output, ("", ""), rows)]
        for answer, score in self.scores.items():
            sections += score.sections(answer)
        if any(self.calibration.rows):
            sections.append(self.calibration.section())
        return sections


def evaluate(
    output: str | os.PathLike[str],
    expected: str | Mapping[str, str],
    *,
    output_prefix: str | None = None,
    resolver: Resolver = resolve_location,
) -> Evaluation:
    """Hold the answers of an output against what was expected, in one pass.

    Args:
        output: a published file, a directory of them, or a table.
        expected: the column that holds what is expected of the answer (the label, else the response); or for several
            answers the column of each, by the answer's name.
        output_prefix: of the answers' columns; ``None``: of those that were added last.
        resolver: opens paths and URLs.

    Raises:
        ConfigurationError: there is nothing to compare: no such answer, or columns of different kinds.
        MissingColumnError: there is no such column.
        InputNotFoundError, InputUnreadableError: there is no such output.
    """
    files = open_output(output, output_prefix=output_prefix, resolver=resolver)
    columns = _columns_of(files[0], expected)
    result = Evaluation(files[0].location.url if len(files) == 1 else os.fspath(output), {})
    for answer, column in columns.items():
        result.scores[answer] = _score_for(files[0], answer, column)
    for file in files:
        _add_file(result, file, columns)
    return result


def _columns_of(file: OutputFile, expected: str | Mapping[str, str]) -> dict[str, str]:
    """The expected column of each answer."""
    if isinstance(expected, Mapping):
        if not expected:
            raise ConfigurationError("expected names no answer; give the column of at least one.")
        columns = dict(expected)
    else:
        answers = file.answer_names
        if len(answers) > 1:
            raise ConfigurationError(
                f"The output {file.location.url!r} has several answers ({', '.join(answers)}): say which is meant, as "
                f"{answers[0]}={expected}."
            )
        columns = {answers[0]: expected}
    for answer in columns:
        file.require_answer(answer)
        if answer in ("embedding", "chunks"):
            raise ConfigurationError("A vector cannot be held against an expected value; evaluate a text or a label.")
    return columns


def _score_for(file: OutputFile, answer: str, column: str) -> Score:
    next(file.batches([column]), None)  # says what is wrong if it is not there
    kind, expected_kind = (file.schema.field(name).type for name in (file.prefix + answer, column))
    numbers = tuple(_is_number(one) for one in (kind, expected_kind))
    if all(numbers):
        return NumberScore()
    if is_text(kind) and is_text(expected_kind):
        return LabelScore() if file.has_few_values(answer) else TextScore()
    if pat.is_boolean(kind) and (pat.is_boolean(expected_kind) or is_text(expected_kind)):
        return LabelScore()
    if kind == expected_kind and not pat.is_nested(kind):
        return TextScore()  # dates and the like: equal, or not
    raise ConfigurationError(
        f"The answer {answer!r} is {kind} and the column {column!r} is {expected_kind}: these cannot be compared; give "
        "a column of the same kind."
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pat.is_integer(kind) or pat.is_floating(kind) or pat.is_decimal(kind))


def _add_file(result: Evaluation, file: OutputFile, columns: Mapping[str, str]) -> None:
    is_classified = "label" in columns and "label" in file.answer_names
    confidence = file.prefix + "confidence" if file.has("confidence") and is_classified else None
    for batch in _rows(file, [file.prefix + answer for answer in columns], list(columns.values()), confidence):
        answers, expected, confidences = batch
        result.rows += len(answers[0])
        for number, (answer, score) in enumerate(zip(columns, result.scores.values(), strict=True)):
            for row, (right, given) in enumerate(zip(expected[number], answers[number], strict=True)):
                if right is None:
                    result.without_expected += number == 0
                    continue
                confidence_of_row = confidences[row] if confidences else None
                if given is None:
                    result.without_answer += number == 0
                elif answer == "label" and confidence_of_row is not None:
                    result.calibration.add(confidence_of_row, right == given)
                score.add(right, given)


def _rows(
    file: OutputFile, answers: Sequence[str], expected: Sequence[str], confidence: str | None
) -> Iterator[tuple[list[list[Any]], list[list[Any]], list[float | None] | None]]:
    """Batches of values: of each answer (null where the row has no result), of each expected column, confidences."""
    status = file.prefix + "status"
    names = [*answers, *expected, status, *([confidence] if confidence else [])]
    for batch in file.batches(names):
        good = [one == "success" for one in batch.column(status).to_pylist()]
        given = [
            [value if ok else None for value, ok in zip(batch.column(name).to_pylist(), good, strict=True)]
            for name in answers
        ]
        yield (
            given,
            [batch.column(name).to_pylist() for name in expected],
            batch.column(confidence).to_pylist() if confidence else None,
        )

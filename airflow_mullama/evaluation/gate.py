"""Whether an evaluation is good enough to go on with: thresholds, and the last evaluation that was accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_mullama.errors import ConfigurationError
from airflow_mullama.evaluation.accepted_file import read_accepted_file
from airflow_mullama.storage.filesystems import Location

_THRESHOLD = re.compile(r"\s*(>=|<=)?\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")
# Of these figures less is better.
ERRORS = ("mean_absolute_error", "expected_calibration_error", "brier_score", "without_answer")


@dataclass(frozen=True)
class Verdict:
    """What became of one threshold.

    Args:
        figure: its name.
        value: what was found.
        wanted: what it was held against, as people read it.
        holds: whether it does.
    """

    figure: str
    value: float
    wanted: str
    holds: bool

    def to_json(self) -> dict[str, Any]:
        """As it goes to XCom."""
        return {"figure": self.figure, "value": self.value, "wanted": self.wanted, "holds": self.holds}


def judge(
    evaluation: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    accepted: Mapping[str, Any] | None = None,
    max_drop: float | None = None,
) -> list[Verdict]:
    """Hold an evaluation against thresholds, and against the last one that was accepted.

    Args:
        evaluation: as :meth:`airflow_mullama.evaluation.evaluate.Evaluation.to_json` gives it.
        thresholds: by a figure's name (``accuracy``, ``urgency.macro_f1``, ``accuracy.low`` for the lower end of its
            interval) a number, or a text such as ``">= 0.9"`` or ``"<= 2"``. A number alone is the least, of an error
            the most.
        accepted: the evaluation that was accepted last.
        max_drop: how much worse than that a figure with a threshold, or the first figure, may be.

    Raises:
        ConfigurationError: a figure that the evaluation does not have, or a threshold that is none.
    """
    figures = dict(_figures(evaluation))
    verdicts = [_held(figures, name, threshold) for name, threshold in thresholds.items()]
    if accepted is not None and max_drop is not None:
        earlier = dict(_figures(accepted))
        names = list(thresholds) or list(figures)[:1]
        verdicts += [_not_dropped(figures, earlier, name, max_drop) for name in names if name in earlier]
    return verdicts


def read_accepted(location: Location) -> dict[str, Any] | None:
    """The evaluation that was accepted last; ``None`` before the first.

    Raises:
        InputUnreadableError: the file holds something else.
        StorageUnavailableError: it cannot be read.
    """

    def parse(value: Any) -> dict[str, Any]:
        dict(_figures(value))
        return dict(value)

    return read_accepted_file(location, parse, what="evaluation", keeper="gate")


def _figures(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every figure by its name; those of the first answer by a short one too."""
    for number, (answer, score) in enumerate(evaluation["answers"].items()):
        for name, figure in score.items():
            if not isinstance(figure, Mapping) or figure.get("value") is None:
                continue
            for prefix in ("", f"{answer}.") if number == 0 else (f"{answer}.",):
                yield prefix + name, figure["value"]
                yield f"{prefix}{name}.low", figure["low"]
                yield f"{prefix}{name}.high", figure["high"]
    for name in ("expected_calibration_error", "brier_score"):
        if isinstance(value := evaluation.get("calibration", {}).get(name), float):
            yield name, value
    if evaluation["rows"]:
        yield "without_answer", evaluation["without_answer"] / evaluation["rows"]


def _held(figures: Mapping[str, float], name: str, threshold: Any) -> Verdict:
    if name not in figures:
        raise ConfigurationError(
            f"thresholds names {name!r}, and the evaluation has {', '.join(figures)}; correct the name."
        )
    match = _THRESHOLD.fullmatch(str(threshold))
    if match is None or isinstance(threshold, bool):
        raise ConfigurationError(
            f"thresholds[{name!r}] is {threshold!r}; it must be a number, or a text such as '>= 0.9' or '<= 2'."
        )
    operator = match[1] or ("<=" if _less_is_better(name) else ">=")
    limit, value = float(match[2]), figures[name]
    return Verdict(name, value, f"{operator} {limit:g}", value >= limit if operator == ">=" else value <= limit)


def _not_dropped(figures: Mapping[str, float], earlier: Mapping[str, float], name: str, max_drop: float) -> Verdict:
    value, before = figures[name], earlier[name]
    if _less_is_better(name):
        return Verdict(name, value, f"<= {before:.4g} + {max_drop:g} (last accepted)", value <= before + max_drop)
    return Verdict(name, value, f">= {before:.4g} - {max_drop:g} (last accepted)", value >= before - max_drop)


def _less_is_better(name: str) -> bool:
    return name.removesuffix(".high").endswith(ERRORS)

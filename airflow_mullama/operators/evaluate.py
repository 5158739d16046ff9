"""The operator that holds an output against what was expected."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator

from airflow_mullama.compat import AirflowFailException
from airflow_mullama.errors import ConfigurationError, MissingColumnError
from airflow_mullama.operators.base import MOST_ACCOUNT_BYTES

log = logging.getLogger(__name__)


class MullamaEvaluateOperator(BaseOperator):
    """Evaluate an output whose rows carry what was expected.

    Its XCom is what ``airflow-mullama evaluate --json`` prints.

    Args:
        output_path: a published file, a directory of them, local or an object store's URL, or a table's address
            (templated).
        expected: the input column that holds what is expected of the answer (the label, else the response); or for
            several answers the column of each: ``{"urgency": "true_urgency"}`` (templated).
        output_prefix: of the answers' columns; ``None``: of those that were added last (templated).
        **kwargs: of Airflow's ``BaseOperator``.
    """

    template_fields: ClassVar[Sequence[str]] = ("output_path", "expected", "output_prefix")  # type: ignore[misc]
    template_fields_renderers: ClassVar[dict[str, str]] = {"expected": "json"}
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        output_path: str,
        expected: str | Mapping[str, str],
        output_prefix: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.output_path = output_path
        self.expected = expected
        self.output_prefix = output_prefix

    def execute(self, context: Any) -> dict[str, Any]:
        """Evaluate.

        Raises:
            AirflowFailException: there is nothing to compare, and no retry mends that.
            MullamaError: the output is not there, or cannot be read.
        """
        from airflow_mullama.evaluation.evaluate import evaluate
        from airflow_mullama.hooks.filesystems import resolve_in_task

        try:
            found = evaluate(
                self.output_path, self.expected, output_prefix=self.output_prefix, resolver=resolve_in_task
            )
        except (ConfigurationError, MissingColumnError) as error:
            raise AirflowFailException(str(error)) from error
        for name, figure in found.figures().items():
            log.info("%s: %s of %s rows", name, figure, f"{figure.rows:,}")
        return _bounded(found.to_json())


def _bounded(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Without which label is taken for which, and then without labels, where an XCom has no room for them.

    Labels may be a thousand, and which is taken for which their square.
    """
    for detail in ("confusion", "labels"):
        if len(json.dumps(evaluation)) <= MOST_ACCOUNT_BYTES:
            break
        for score in evaluation["answers"].values():
            score.pop(detail, None)
    return evaluation

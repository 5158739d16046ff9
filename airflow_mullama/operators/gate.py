"""The operator that stands between a sample and a backfill: it lets pass what is good enough, or asks a person."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from airflow.providers.standard.operators.hitl import ApprovalOperator

from airflow_mullama.arguments import Number, OneOf, OrNone, from_text, require
from airflow_mullama.compat import AirflowFailException
from airflow_mullama.errors import ConfigurationError

log = logging.getLogger(__name__)


class MullamaGateOperator(ApprovalOperator):
    """Let the tasks after this one run if an evaluation is good enough.

    Where it is not, the gate fails at once, or asks a person by Airflow's own approval (*Required actions* in the UI):
    who approves lets the run go on, who rejects skips what comes after.

    Its XCom is ``{"passed": ..., "verdicts": [...]}``, and ``"approved_by"`` where a person decided.

    Args:
        evaluation: the ``.output`` of a ``MullamaEvaluateOperator`` (templated).
        thresholds: by a figure's name (``accuracy``, ``urgency.macro_f1``, ``accuracy.low`` for the lower end of its
            interval) a number, or a text such as ``">= 0.9"`` or ``"<= 2"`` (templated).
        accepted_path: a JSON file, local or an object store's URL, in which the gate keeps the last evaluation that it
            let pass (templated).
        max_drop: how much worse than that one the figures may be; needs ``accepted_path`` (templated).
        if_below: ``fail`` or ``ask``.
        **kwargs: of Airflow's ``ApprovalOperator``: ``response_timeout``, ``notifiers``, ``assigned_users``,
            ``fail_on_reject``, ``subject`` and others.
    """

    template_fields: ClassVar[Sequence[str]] = (  # type: ignore[misc]
        *ApprovalOperator.template_fields,
        "evaluation",
        "thresholds",
        "accepted_path",
        "max_drop",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"evaluation": "json", "thresholds": "json"}
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        evaluation: Any,
        thresholds: Mapping[str, Any] | None = None,
        accepted_path: str | None = None,
        max_drop: float | str | None = None,
        if_below: str = "fail",
        subject: str = "The sample is not as good as it should be. Go on all the same?",
        **kwargs: Any,
    ) -> None:
        super().__init__(subject=subject, **kwargs)
        self.evaluation = evaluation
        self.thresholds = thresholds
        self.accepted_path = accepted_path
        self.max_drop = max_drop
        self.if_below = if_below

    def execute(self, context: Any) -> dict[str, Any]:
        """Judge; wait for a person where the gate is to ask.

        Raises:
            AirflowFailException: the evaluation is not good enough, or an argument cannot work.
        """
        verdicts = self._verdicts()
        for verdict in verdicts:
            held = "holds" if verdict.holds else "does not hold"
            log.info("%s is %.4g; wanted: %s: %s", verdict.figure, verdict.value, verdict.wanted, held)
        missed = [verdict for verdict in verdicts if not verdict.holds]
        told = {"passed": not missed, "verdicts": [verdict.to_json() for verdict in verdicts]}
        if not missed:
            self._keep_accepted()
            return told
        sentence = "; ".join(f"{one.figure} is {one.value:.4g} and {one.wanted} is wanted" for one in missed)
        if self.if_below == "fail":
            raise AirflowFailException(f"The evaluation is not good enough: {sentence}. Nothing after this gate ran.")
        rows = "\n".join(
            f"| {one.figure} | {one.value:.4g} | {one.wanted} | {'yes' if one.holds else '**no**'} |"
            for one in verdicts
        )
        self.body = f"| figure | value | wanted | holds |\n| --- | --- | --- | --- |\n{rows}"
        super().execute(context)  # ends this process until somebody has answered
        return told

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Go on as a person decided."""
        answer = super().execute_complete(context, event)
        verdicts = [verdict.to_json() for verdict in self._verdicts()]
        approved = answer["chosen_options"] == [self.APPROVE]
        if approved:
            self._keep_accepted()
        user = (answer.get("responded_by_user") or {}).get("name")
        return {"passed": approved, "verdicts": verdicts, "approved_by" if approved else "rejected_by": user}

    def _verdicts(self) -> Any:
        from airflow_mullama.evaluation.gate import judge, read_accepted

        try:
            require("if_below", self.if_below, OneOf(("fail", "ask")))
            max_drop: Any = from_text(self.max_drop, OrNone(Number(0.0, float("inf"))))
            require("max_drop", max_drop, OrNone(Number(0.0, float("inf"))))
            if not self.thresholds and max_drop is None:
                raise ConfigurationError("The gate has nothing to hold figures against: give thresholds or max_drop.")
            if max_drop is not None and not self.accepted_path:
                raise ConfigurationError("max_drop needs accepted_path: the file that keeps what was accepted last.")
            if not isinstance(self.evaluation, Mapping) or "answers" not in self.evaluation:
                raise ConfigurationError(
                    "evaluation is not what a MullamaEvaluateOperator returns: give its .output, and keep its XCom."
                )
            accepted = read_accepted(self._accepted()) if self.accepted_path else None
            return judge(self.evaluation, self.thresholds or {}, accepted, max_drop)
        except ConfigurationError as error:
            raise AirflowFailException(str(error)) from error

    def _accepted(self) -> Any:
        from airflow_mullama.hooks.filesystems import resolve_in_task

        return resolve_in_task(str(self.accepted_path))

    def _keep_accepted(self) -> None:
        from airflow_mullama.evaluation.accepted_file import write_accepted_file

        if self.accepted_path:
            write_accepted_file(self._accepted(), self.evaluation)

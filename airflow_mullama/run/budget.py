"""What a job may spend, over all its partitions: seconds of the engine, and tokens."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mullama.errors import BudgetSpentError, ConfigurationError
from airflow_mullama.jobs.job import Job


@dataclass
class Budget:
    """Counts what this attempt spends. What earlier attempts spent was theirs.

    Args:
        max_seconds: in which the engine may have rows; ``None``: any.
        max_tokens_total: of prompts and answers that the engine computes; ``None``: any.
    """

    max_seconds: float | None = None
    max_tokens_total: int | None = None
    seconds: float = 0.0
    tokens: int = 0

    @classmethod
    def of(cls, job: Job) -> Budget:
        """What a job may spend."""
        return cls(job.max_seconds, job.max_tokens_total)

    def add_outcomes(self, batch: pa.RecordBatch) -> None:
        """The engine answered rows, well or not.

        Raises:
            ConfigurationError: it does not tell what it spent.
        """
        if self.max_tokens_total is None:
            return
        names = [name for name in ("prompt_tokens", "completion_tokens") if name in batch.schema.names]
        answered = batch.filter(pc.is_null(batch.column("error_type")))
        if answered.num_rows and all(answered.column(name).null_count == answered.num_rows for name in names):
            raise ConfigurationError(
                "max_tokens_total is given, and the engine does not tell how many tokens it takes: use max_seconds. "
                "What is finished is kept."
            )
        self.tokens += sum(pc.sum(batch.column(name)).as_py() or 0 for name in names)

    @property
    def is_spent(self) -> bool:
        """Whether no further row may be sent. Those that the engine has are waited for: they are paid for already."""
        return bool(
            (self.max_seconds is not None and self.seconds >= self.max_seconds)
            or (self.max_tokens_total is not None and self.tokens >= self.max_tokens_total)
        )

    def error(self, done: int, total: int, partition: str) -> BudgetSpentError:
        """What ends the job."""
        if self.max_tokens_total is not None and self.tokens >= self.max_tokens_total:
            spent = f"{self.tokens:,} tokens, of max_tokens_total={self.max_tokens_total:,}"
        else:
            spent = f"{self.seconds:,.1f} s of the engine, of max_seconds={self.max_seconds:g}"
        return BudgetSpentError(
            f"The budget is spent ({spent}) at {done:,} of {total:,} rows of {partition}. What is finished is kept: "
            "run again to go on from there, with a budget of its own."
        )

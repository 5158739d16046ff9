"""What an attempt found at its output's place when it began: this it may replace, and nothing else.

So of two attempts at once one publishes, and one that stood still for hours undoes nothing (docs/fencing.md).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from airflow_mullama.errors import StorageUnavailableError, SupersededAttemptError
from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.run.existing_output import ExistingOutput
from airflow_mullama.storage.partition_output import PublishedOutput

# What tells the account of one attempt from those of all others, also of versions that gave attempts no name.
Account = tuple[str, str, str]


@dataclass(frozen=True)
class FoundOutput:
    """What was there.

    Args:
        existing: the place.
        version: of what was there; ``None``: nothing.
        published: the output of an earlier run, if there was one and the job does not replace it.
        account: which attempt had published what was there; ``None`` if it was none of ours.
    """

    existing: ExistingOutput
    version: str | None
    published: PublishedOutput | None
    account: Account | None

    @classmethod
    def now(cls, existing: ExistingOutput) -> FoundOutput:
        """Look at what is there. Its version comes first: what is published meanwhile has another one.

        Raises:
            OutputExistsError: it is not this job's to replace.
        """
        version = existing.output.version()
        published = existing.look()
        there = published
        if version is not None and there is None:  # it is to be overwritten, and need not be readable
            with contextlib.suppress(StorageUnavailableError):
                there = existing.output.published()
        return cls(existing, version, published, None if there is None else _account(there.manifest))

    @property
    def is_up_to_date(self) -> bool:
        """Whether nothing is to be done."""
        return self.published is not None and self.existing.is_up_to_date(self.published)

    def published_since(self) -> PublishedOutput | None:
        """What another attempt has published since; ``None`` if none has, whatever else became of the output."""
        if self.existing.output.version() == self.version:
            return None
        there = self.existing.output.published()
        # The same account in another version: somebody copied the file, or wrote the table's files anew.
        return None if there is None or _account(there.manifest) == self.account else there

    def is_done_by_other(self) -> bool:
        """Whether another attempt has done the whole work since."""
        there = self.published_since()
        return there is not None and self.existing.is_up_to_date(there)


def superseded(
    output: str, *, attempt: str, began: str, fingerprint: str, by: PartitionManifest
) -> SupersededAttemptError:
    """The error for an attempt in whose place another one has published.

    Args:
        output: the place.
        attempt, began, fingerprint: of the one that did not publish.
        by: the account of what is there.
    """
    newer = by.started_at > began
    what = (
        f"the same work there, in which {by.retryable_rows} of {by.rows} rows failed and may pass"
        if by.fingerprint == fingerprint
        else "other work there (another input, prompt, model or other settings)"
    )
    remedy = (
        "The other one began later, so that its output is taken for what is wanted: run this again only to replace it."
        if newer
        else "The other one began earlier: run this again to replace its output; what is durable is not computed again."
    )
    other = f"{by.attempt or 'without a name'} of {by.writer}, begun {by.started_at}"
    return SupersededAttemptError(
        f"While this attempt ({attempt}, begun {began}) was at {output!r}, another one ({other}) published {what}. "
        f"This one stopped before it published, and what is there stays. {remedy}",
        by_newer=newer,
    )


def _account(manifest: PartitionManifest) -> Account:
    return manifest.attempt, manifest.started_at, manifest.ended_at

"""The named steps of a partition's run, so that tests can break any of them and prove that nothing is lost.

Nothing listens outside of tests: a step then costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable

# In the order in which a partition first meets them.
STEPS = (
    "read",  # a batch of input rows was read (reading thread)
    "render",  # its requests are about to be rendered (reading thread)
    "send",  # requests are about to be sent
    "wait",  # about to wait for an event
    "result",  # outcomes came back
    "stage",  # a chunk is about to be made durable (writing thread)
    "staged",  # a chunk is durable (writing thread)
    "commit",  # every chunk is in the output or about to be (output thread)
    "write",  # a row group is about to be written to the unpublished output (output thread); large ones before "commit"
    "publish",  # the output is whole and about to be published (output thread)
    "published",  # the output is published, the stage not yet removed
)

# Of tables only, between "publish" and "published".
TABLE_STEPS = ("placed",)  # the data file lies in its table, and no commit names it yet (output thread)

# Of files on an object store only, after "publish": what is to be replaced was looked at (output thread).
STORE_STEPS = ("checked",)

observer: Callable[[str], None] | None = None


def reached(step: str) -> None:
    """Tell the observer, if there is one; what it raises is raised here."""
    if observer is not None:
        observer(step)

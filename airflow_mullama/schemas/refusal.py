"""How a schema is refused: where, what, and what to do."""

from __future__ import annotations

from airflow_mullama.errors import ConfigurationError


def refuse(path: str, what: str, remedy: str) -> ConfigurationError:
    """The error for the schema at ``path``.

    Args:
        path: such as ``properties.tags.items``; empty for the schema itself.
        what: the rest of the sentence that begins with the path.
        remedy: what to do.
    """
    subject = f"output_schema: {path}" if path else "output_schema: the schema"
    return ConfigurationError(f"{subject} {what}; {remedy}.")


def at(path: str, step: str) -> str:
    """The place ``step`` inside ``path``."""
    return f"{path}.{step}" if path else step

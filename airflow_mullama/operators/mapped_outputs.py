"""Mapped tasks that would write to the same output: the last one would win, so all of them are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_mullama.compat import mapped_arguments
from airflow_mullama.errors import ConfigurationError, InputNotFoundError
from airflow_mullama.storage.filesystems import Resolver
from airflow_mullama.storage.hive import data_format
from airflow_mullama.storage.partitions import discover_partitions, output_path_of
from airflow_mullama.storage.places import place_of

# What a template can tell the mapped tasks of one run apart by.
TELLS_APART = re.compile(r"\{[{%].*\b(ti|task_instance|task|map_index)\b", re.DOTALL)

Pair = tuple[str, str]
"""An input and its output, as the DAG has them; an empty input is one that is not known."""


def refuse_meeting_outputs(operator: Any, context: Mapping[str, Any], resolver: Resolver) -> None:
    """Refuse mapped tasks of which two or more write to one place, before any of them has spent a row.

    What is not known here (an input that a function returns, equal names below two directories of other names) is found
    later, by the footers of what is published.

    Args:
        operator: one of the mapped tasks.
        context: of the running task.
        resolver: opens paths and URLs.

    Raises:
        ConfigurationError: names the output.
    """
    siblings = mapped_arguments(operator, context)
    if len(siblings) < 2:
        return
    index = context["ti"].map_index
    outputs = [dict(_outputs(arguments)) for arguments in siblings]
    for place, pair in outputs[index].items():
        others = [other[place] for number, other in enumerate(outputs) if number != index and place in other]
        if any(pair == other or _is_file(pair) or _is_file(other) for other in others):
            raise ConfigurationError(
                f"{len(others) + 1} of the {len(siblings)} mapped tasks {operator.task_id!r} would write to {place!r}, "
                "each over the others; map output_path too, or put {{ ti.map_index }} into it."
            )
        for other in others:
            _refuse_collision(pair, other, resolver)


def _refuse_collision(pair: Pair, other: Pair, resolver: Resolver) -> None:
    """Two directories of one name meet if both hold files directly, and not if there are only partitions below them."""
    inputs, outputs = zip(pair, other, strict=True)
    try:
        discover_partitions(inputs, outputs, resolver, leave_out_missing=True)
    except InputNotFoundError:
        return


def _outputs(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Pair]]:
    """The places where a mapped task will write, as far as they are known before its templates are rendered."""
    inputs, outputs = (_listed(arguments.get(name)) for name in ("input_path", "output_path"))
    if not inputs:
        inputs = [""] * len(outputs)
    elif len(outputs) == 1:
        outputs = [*outputs] * len(inputs)
    for pair in zip(inputs, outputs, strict=False):
        known = pair[0] != "" or place_of(pair[1]).is_file
        if known and not any(map(TELLS_APART.search, pair)):
            yield output_path_of(*pair), pair


def _is_file(pair: Pair) -> bool:
    return data_format(pair[0]) is not None or place_of(pair[1]).is_file


def _listed(paths: Any) -> Sequence[str]:
    """Paths that are known; none for what is to come from another task."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if isinstance(listed, (list, tuple)) and all(isinstance(path, (str, os.PathLike)) for path in listed):
        return [os.fspath(path) for path in listed]
    return []

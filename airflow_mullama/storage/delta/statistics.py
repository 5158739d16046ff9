"""What the log of a Delta table says of a data file, so that readers need not open those that they do not want."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pyarrow.parquet as pq

# As Spark does: of so many columns, and of texts so many characters.
MOST_COLUMNS = 32
LONGEST_TEXT = 32


def file_statistics(metadata: pq.FileMetaData) -> dict[str, Any]:
    """Rows, and of the first columns nulls, smallest and largest values, from a file's footer."""
    nulls: dict[str, int] = {}
    smallest: dict[str, Any] = {}
    largest: dict[str, Any] = {}
    columns = [place for place in range(len(metadata.schema)) if "." not in metadata.schema.column(place).path][
        :MOST_COLUMNS
    ]
    for place in columns:
        name = metadata.schema.column(place).path
        chunks = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        if not all(chunk is not None and chunk.has_null_count for chunk in chunks):
            continue
        nulls[name] = sum(chunk.null_count for chunk in chunks)
        bounds = [chunk for chunk in chunks if chunk.has_min_max]
        filled = [chunk for chunk in chunks if chunk.num_values]
        if bounds and len(bounds) >= len(filled):
            low, high = _written(min(one.min for one in bounds)), _written(max(one.max for one in bounds))
            if low is not None and high is not None:
                smallest[name], largest[name] = low, high
    return {"numRecords": metadata.num_rows, "minValues": smallest, "maxValues": largest, "nullCount": nulls}


def _written(value: object) -> object:
    """A bound as the log writes it; ``None`` for what is left out."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) or (isinstance(value, str) and len(value) <= LONGEST_TEXT):
        return value
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    return None

"""Lineage: which tables a task read and wrote, and what became of the rows, as OpenLineage facets.

A dataset is a table and not one of its partitions: the folder above the hive segments (``ds=…``), so that a daily task
has one input and one output and not a new one each day; which partitions it was stands in the subset facets.

OpenLineage's listener asks in a process forked from the task's, where Arrow's threads are gone: what must be read from
a file is read before, by :func:`remember_schemas`, and only where lineage is collected.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_mullama.manifest import PartitionManifest
from airflow_mullama.operators.assets import partitions_with_output
from airflow_mullama.rows import ErrorType, Status
from airflow_mullama.storage.places import Place, partition_values, place_of, table_of

log = logging.getLogger(__name__)

Columns = Sequence[tuple[str, str]]


@dataclass
class Table:
    """What the partitions of one table add up to."""

    place: Place
    rows: int = 0
    bytes: int = 0
    files: int = 0
    status_counts: dict[str, int] = field(default_factory=dict)
    error_types: dict[str, int] = field(default_factory=dict)
    partitions: list[str] = field(default_factory=list)

    @property
    def failed_rows(self) -> int:
        """Rows with neither a result nor a null input."""
        return self.status_counts.get(Status.FAILED.value, 0) + self.status_counts.get(Status.INVALID_OUTPUT.value, 0)


def remember_schemas(job: Any, manifest: PartitionManifest, resolver: Any) -> dict[str, Columns]:
    """The columns of the tables, read from one output's footer.

    Args:
        job: what was done.
        manifest: of what was written.
        resolver: opens paths and URLs.

    Returns:
        ``input`` and ``output``: names and types of their columns; nothing where there is no output.
    """
    import pyarrow.parquet as pq

    partitions = partitions_with_output(manifest)
    if not partitions:
        return {}
    output = resolver(partitions[0].output_path)
    schema = pq.read_schema(output.path, filesystem=output.filesystem)
    columns = [(column.name, str(column.type)) for column in schema]
    # An output is the input's columns and the job's.
    added = {job.output_prefix + name for name in job.added_column_names}
    return {"input": [column for column in columns if column[0] not in added], "output": columns}


def operator_lineage(operator: Any) -> Any:
    """What OpenLineage is told of a task that ended, well or not.

    Args:
        operator: after its ``execute``. Where nothing was written there are the tables it was given, and no numbers.

    Returns:
        An ``OperatorLineage`` of the OpenLineage provider.
    """
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    manifest: PartitionManifest | None = getattr(operator, "manifest", None)
    if manifest is None or not partitions_with_output(manifest):
        return OperatorLineage(
            inputs=[InputDataset(*dataset_name(table)) for table in _tables(operator.input_path)],
            outputs=[OutputDataset(*dataset_name(table)) for table in _tables(operator.output_path)],
        )
    schemas: Mapping[str, Columns] = getattr(operator, "lineage_schemas", None) or {}
    return OperatorLineage(
        inputs=[
            InputDataset(
                *dataset_name(table.place),
                facets=_schema_facet(schemas.get("input")),
                inputFacets=_input_facets(table, operator.max_error_ratio),
            )
            for table in _add_up(manifest, of_input=True)
        ],
        outputs=[
            OutputDataset(
                *dataset_name(table.place),
                facets=_schema_facet(schemas.get("output")),
                outputFacets=_output_facets(table),
            )
            for table in _add_up(manifest, of_input=False)
        ],
    )


def dataset_name(place: Place) -> tuple[str, str]:
    """Namespace and name, by OpenLineage's rules for stores and files (https://openlineage.io/docs/spec/naming)."""
    if place.scheme == "file":
        return "file", os.path.abspath(place.path)
    return f"{place.scheme}://{place.bucket}", place.path or "/"


def _tables(paths: Any) -> list[Place]:
    """The tables of an operator's argument, each once."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths or ())
    return list(dict.fromkeys(table_of(os.fspath(path)) for path in listed))


def _add_up(manifest: PartitionManifest, *, of_input: bool) -> list[Table]:
    tables: dict[Place, Table] = {}
    for one in partitions_with_output(manifest):
        path = one.input_path if of_input else one.output_path
        place = table_of(path)
        table = tables.setdefault(place, Table(place))
        table.rows += one.rows
        table.bytes += one.bytes_in if of_input else one.bytes_out
        table.files += 1
        table.partitions.append(path)
        for total, counts in ((table.status_counts, one.status_counts), (table.error_types, one.error_types)):
            for name, count in counts.items():
                total[name] = total.get(name, 0) + count
    return list(tables.values())


def _schema_facet(columns: Columns | None) -> dict[str, Any]:
    if not columns:
        return {}
    from openlineage.client.facet_v2 import schema_dataset

    fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=type_) for name, type_ in columns]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}


def _input_facets(table: Table, max_error_ratio: float) -> dict[str, Any]:
    from openlineage.client.facet_v2 import data_quality_assertions_dataset, input_statistics_input_dataset

    return {
        "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=table.rows, size=table.bytes
        ),
        "dataQualityAssertions": data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
            assertions=_assertions(table, max_error_ratio)
        ),
        **_subset_facet(table, "InputSubsetInputDatasetFacet", "subset", "inputCondition"),
    }


def _output_facets(table: Table) -> dict[str, Any]:
    from openlineage.client.facet_v2 import output_statistics_output_dataset

    return {
        "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=table.rows, size=table.bytes, fileCount=table.files
        ),
        **_subset_facet(table, "OutputSubsetOutputDatasetFacet", "subset", "outputCondition"),
    }


def _assertions(table: Table, max_error_ratio: float) -> list[Any]:
    """The error budget, and one for each kind of error that was met."""
    ratio = table.failed_rows / table.rows if table.rows else 0.0
    found = [
        _assertion(
            assertion="error_ratio",
            success=ratio <= max_error_ratio,
            severity="error",
            description="The share of rows without a result that the task allows.",
            expected=f"<= {max_error_ratio:g}",
            actual=f"{ratio:.6g}",
        )
    ]
    found.extend(
        _assertion(
            assertion=f"no_{error_type}",
            success=False,
            severity="warn",
            description=f"No row has the error_type {error_type}.",
            expected="0",
            actual=str(count),
        )
        for error_type, count in sorted(table.error_types.items())
        if error_type != ErrorType.NULL_INPUT.value and count
    )
    return found


def _assertion(**values: Any) -> Any:
    import attr
    from openlineage.client.facet_v2 import data_quality_assertions_dataset

    # Older releases of OpenLineage's client know fewer fields.
    known = attr.fields_dict(data_quality_assertions_dataset.Assertion)
    return data_quality_assertions_dataset.Assertion(**{name: value for name, value in values.items() if name in known})


def _subset_facet(table: Table, facet: str, key: str, condition: str) -> dict[str, Any]:
    """Which partitions of the table it was; nothing for a table that has none, or where the client is too old."""
    try:
        from openlineage.client.facet_v2 import base_subset_dataset as subset
    except ImportError:
        return {}
    partitions = [(place_of(path).url, partition_values(path)) for path in table.partitions]
    if not all(dimensions for _, dimensions in partitions):
        return {}
    listed = [subset.Partition(identifier=url, dimensions=dimensions) for url, dimensions in partitions]
    return {key: getattr(subset, facet)(**{condition: subset.PartitionSubsetCondition(partitions=listed)})}

"""Lineage: which tables a task read and wrote, and what became of the rows, as OpenLineage facets.

A dataset is a table and not one of its partitions: the folder above the hive segments (``ds=…``), so that a daily task
has one input and one output and not a new one each day; which partitions these were is said in the subset facets.

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
from airflow_mullama.row_counts import RowCounts, add_up
from airflow_mullama.storage.addresses import table_format
from airflow_mullama.storage.places import Place, partition_values, place_of, table_of

log = logging.getLogger(__name__)

Columns = Sequence[tuple[str, str]]


@dataclass
class Table:
    """What the partitions of one table add up to."""

    place: Place
    counts: RowCounts = field(default_factory=RowCounts)
    rows: int = 0
    bytes: int = 0
    partitions: list[str] = field(default_factory=list)


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

    from airflow_mullama.storage.tables.formats import open_table
    from airflow_mullama.storage.tables.keys import split_address
    from airflow_mullama.storage.tables.table import require_table

    partitions = partitions_with_output(manifest)
    if not partitions:
        return {}
    output = resolver(partitions[0].output_path)
    if table_format(output.address) is None:
        schema = pq.read_schema(output.path, filesystem=output.filesystem)
    else:
        schema = require_table(open_table(split_address(output)[0])).schema
    columns = [(column.name, str(column.type)) for column in schema]
    # An output is the input's columns, but for those that the job leaves out, and the job's.
    added = {job.output_prefix + name for name in job.added_column_names}
    left_out = [(name, "string") for name in job.left_out_columns]
    return {"input": [*(column for column in columns if column[0] not in added), *left_out], "output": columns}


def remember_locations(manifest: PartitionManifest, resolver: Any) -> dict[Place, Place]:
    """Where the Iceberg tables lie that were read and written, as their catalogs say.

    Args:
        manifest: of what was done.
        resolver: opens paths and URLs.
    """
    from airflow_mullama.storage.tables.keys import split_address

    found: dict[Place, Place] = {}
    for one in partitions_with_output(manifest):
        for path in (one.input_path, one.output_path):
            if table_format(path) == "iceberg" and table_of(path) not in found:
                from airflow_mullama.storage.iceberg.table import IcebergHandle

                table = IcebergHandle(split_address(resolver(path))[0]).load()
                if table is not None:
                    found[table_of(path)] = place_of(table.location())
    return found


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
    locations: Mapping[Place, Place] = getattr(operator, "lineage_locations", None) or {}
    return OperatorLineage(
        inputs=[
            InputDataset(
                *dataset_name(table.place),
                facets={**_schema_facet(schemas.get("input")), **_symlinks_facet(locations.get(table.place))},
                inputFacets=_input_facets(table, operator.max_error_ratio),
            )
            for table in _add_up(manifest, of_input=True)
        ],
        outputs=[
            OutputDataset(
                *dataset_name(table.place),
                facets={**_schema_facet(schemas.get("output")), **_symlinks_facet(locations.get(table.place))},
                outputFacets=_output_facets(table),
            )
            for table in _add_up(manifest, of_input=False)
        ],
    )


def dataset_name(place: Place) -> tuple[str, str]:
    """Namespace and name, by OpenLineage's rules for stores and files (https://openlineage.io/docs/spec/naming).

    A Delta table is known by the directory in which it lies, as its other writers name it; an Iceberg table by its
    catalog and its name there, with its directory as another name: writers on Spark give the one or the other.
    """
    store = place.scheme.removeprefix("delta").removeprefix("+")
    if store in ("", "file"):
        return "file", os.path.abspath(place.path)
    if store != place.scheme:
        return f"{store}://{place.bucket}", place.path or "/"
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
        table.counts = add_up([table.counts, one])
        table.rows += one.rows if of_input else one.rows_of_output
        table.bytes += one.bytes_in if of_input else one.bytes_out
        table.partitions.append(path)
    return list(tables.values())


def _schema_facet(columns: Columns | None) -> dict[str, Any]:
    if not columns:
        return {}
    from openlineage.client.facet_v2 import schema_dataset

    fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=type_) for name, type_ in columns]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields)}


def _symlinks_facet(location: Place | None) -> dict[str, Any]:
    """The name that a table has by where it lies, beside the one that it has in its catalog."""
    if location is None:
        return {}
    from openlineage.client.facet_v2 import symlinks_dataset

    namespace, name = dataset_name(location)
    other = symlinks_dataset.Identifier(namespace=namespace, name=name, type="LOCATION")
    return {"symlinks": symlinks_dataset.SymlinksDatasetFacet(identifiers=[other])}


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
            rowCount=table.rows, size=table.bytes, fileCount=len(table.partitions)
        ),
        **_subset_facet(table, "OutputSubsetOutputDatasetFacet", "subset", "outputCondition"),
    }


def _assertions(table: Table, max_error_ratio: float) -> list[Any]:
    """The error budget, and one for each kind of error that was met."""
    counts = table.counts
    found = [
        _assertion(
            assertion="error_ratio",
            success=counts.error_ratio <= max_error_ratio,
            severity="error",
            description="The share of rows without a result that the task allows.",
            expected=f"<= {max_error_ratio:g}",
            actual=f"{counts.error_ratio:.6g}",
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
        for error_type, count in counts.failure_types.items()
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

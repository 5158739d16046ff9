"""A catalog of the test's own, on SQLite, with its warehouse in a folder or a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa


def configure(monkeypatch: Any, name: str, folder: Path, warehouse: str, **properties: str) -> Any:
    """Describe a catalog where pyiceberg looks for it, in the environment; returns it, with a namespace ``lake``."""
    from pyiceberg.catalog import load_catalog
    from pyiceberg.utils import config

    folder.mkdir(parents=True, exist_ok=True)
    described = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": warehouse, **properties}
    prefix = f"PYICEBERG_CATALOG__{name.upper()}__"
    for key, value in described.items():
        monkeypatch.setenv(prefix + key.upper().replace(".", "__").replace("-", "_"), value)
    # It reads the environment once, when it is imported.
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", config.Config())
    catalog = load_catalog(name)
    catalog.create_namespace_if_not_exists("lake")
    return catalog


def days(*values: str | None, rows: int = 3, start: int = 0) -> pa.Table:
    """Rows of these days."""
    ids = range(start, start + rows * len(values))
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "ds": pa.array([value for value in values for _ in range(rows)], pa.string()),
            "text": [f"ticket {number}" for number in ids],
        }
    )


def partitioned_table(catalog: Any, name: str, rows: pa.Table, key: str = "ds", **properties: str) -> Any:
    made = catalog.create_table_transaction(name, schema=rows.schema, properties=properties)
    with made as transaction, transaction.update_spec() as spec:
        spec.add_identity(key)
    table = catalog.load_table(name)
    table.append(rows)
    return table

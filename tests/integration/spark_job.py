"""Runs in a process of its own, with Spark: writes a file of Spark's types, or tells what Spark reads in some files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyspark.sql import SparkSession

COLUMNS = {
    "id": "id",
    "text": "concat('row ', id)",
    "instant": "if(id = 1, timestamp'9999-12-31 00:00:00Z', timestamp'2026-01-01 12:30:15.123456Z')",
    "local": "timestamp_ntz'0001-01-01 00:00:00'",
    "day": "date'2026-01-31'",
    "days": "make_dt_interval(id, 2, 3, 4.5)",
    "months": "make_ym_interval(1, id)",
    "price": "cast(id + 0.5 as decimal(9, 2))",
    "tags": "array('a', null)",
    "counts": "map('k', id)",
    "pair": "named_struct('days', make_dt_interval(id), 'at', timestamp'2026-01-01 00:00:00Z')",
    "anything": """parse_json('{"a": [1, "b"]}')""",
    "raw": "cast('x' as binary)",
    "short": "cast(id as smallint)",
}


def shown(name: str, kind: str) -> str:
    """An expression that gives a value as text."""
    return (
        f"to_json(`{name}`)" if kind.startswith(("array", "map", "struct", "variant")) else f"cast(`{name}` as string)"
    )


def main(task: str, *paths: str) -> None:
    spark = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.session.timeZone", "America/New_York")
        .config("spark.sql.shuffle.partitions", "1")
        .getOrCreate()
    )
    if task == "write":
        selected = [f"{expression} as {name}" for name, expression in COLUMNS.items()]
        spark.range(5).selectExpr(*selected).coalesce(1).write.parquet(paths[0])
    else:
        read = {}
        for path in paths:
            frame = spark.read.parquet(path)
            kinds = dict(frame.dtypes)
            rows = frame.selectExpr(*(shown(name, kind) for name, kind in kinds.items())).collect()
            read[path] = {"types": kinds, "rows": [list(row) for row in rows]}
        sys.stdout.write(json.dumps(read) + "\n")
    spark.stop()


if __name__ == "__main__":
    assert Path(sys.argv[2]).is_absolute()
    main(*sys.argv[1:])

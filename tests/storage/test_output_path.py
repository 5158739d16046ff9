from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_mullama.storage.partitions import discover_partitions, output_path_of


@pytest.mark.parametrize("below", ["day.parquet", "2026/10/01/a.parquet", "ds=1/a.parquet", "ds=1/hour=2/a.parquet"])
@pytest.mark.parametrize("output", ["out", "out.parquet", "ds=1"])
@pytest.mark.parametrize("of_directory", [True, False])
def test_an_output_is_named_without_a_look_as_it_is_found(
    tmp_path: Path, write_parquet: Any, below: str, output: str, of_directory: bool
) -> None:
    source = write_parquet(tmp_path / "in" / below, ["one"])
    source = source.parent if of_directory else source
    (found,) = discover_partitions(source, tmp_path / output)
    assert output_path_of(str(source), str(tmp_path / output)) == found.output.url


def test_a_url_stays_one_and_is_named_without_its_connection() -> None:
    assert output_path_of("s3://conn@lake/in/ds=1", "s3://conn@lake/out") == "s3://lake/out/ds=1/part-00000.parquet"

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

import pytest


@pytest.fixture(scope="session")
def installed_plugin() -> None:
    """Airflow finds plugins by what is installed."""
    try:
        groups = {one.group for one in distribution("airflow-mullama").entry_points}
    except PackageNotFoundError:
        groups = set()
    if "airflow.plugins" not in groups:
        pytest.skip("Airflow finds plugins that are installed (make test)")

"""Where this package keeps what can be made again: converted and downloaded models, hashes."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "AIRFLOW_MULLAMA_CACHE"


def cache_directory() -> Path:
    """``$AIRFLOW_MULLAMA_CACHE``, else ``$XDG_CACHE_HOME/airflow_mullama``, else ``~/.cache/airflow_mullama``."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "airflow_mullama"
    return Path.home() / ".cache" / "airflow_mullama"

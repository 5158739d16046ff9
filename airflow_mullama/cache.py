"""Where this package keeps what can be made again: converted and downloaded models, hashes."""

from __future__ import annotations

import math
import os
from pathlib import Path

from airflow_mullama.errors import ConfigurationError

CACHE_VARIABLE = "AIRFLOW_MULLAMA_CACHE"
LIMIT_VARIABLE = "AIRFLOW_MULLAMA_CACHE_GB"


def cache_directory() -> Path:
    """``$AIRFLOW_MULLAMA_CACHE``, else ``$XDG_CACHE_HOME/airflow_mullama``, else ``~/.cache/airflow_mullama``."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "airflow_mullama"
    return Path.home() / ".cache" / "airflow_mullama"


def cache_limit() -> int | None:
    """What models that were copied here may take, in bytes: ``$AIRFLOW_MULLAMA_CACHE_GB``; ``None``: what the disk has.

    Raises:
        ConfigurationError: that is no number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise ConfigurationError(f"{LIMIT_VARIABLE} is {text!r}; it must be a number of gigabytes above 0.")
    return int(limit * 1e9)

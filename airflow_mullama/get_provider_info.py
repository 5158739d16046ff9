"""What Airflow reads of this package to list it as a provider."""

from __future__ import annotations

from typing import Any

from airflow_mullama import __version__


def get_provider_info() -> dict[str, Any]:
    """The provider's description, of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-mullama",
        "name": "Mullama",
        "description": "LLM text and embeddings next to Parquet rows, with GGUF models on your own GPU.",
        "versions": [__version__],
        "connection-types": [
            {"connection-type": "mullama", "hook-class-name": "airflow_mullama.hooks.mullama.MullamaHook"}
        ],
    }

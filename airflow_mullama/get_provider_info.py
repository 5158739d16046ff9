"""What Airflow reads of this package to list it as a provider."""

from __future__ import annotations

from typing import Any

from airflow_mullama.version import __version__

_TEXT = ["string", "null"]
_WHOLE = ["integer", "null"]

# The connection form's own fields. Airflow keeps them in the connection's extra, under these names.
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "model": {
        "label": "Model",
        "description": (
            "A GGUF file's path on the workers, hf://owner/repo/file.gguf, an object store's URL, demo:ticket-tagger, "
            "or the name by which an endpoint knows its model."
        ),
        "schema": {"type": _TEXT},
    },
    "model_sha256": {
        "label": "SHA-256 of the model",
        "description": "Of the model file's content: another file is refused. Empty: any file will do.",
        "schema": {"type": _TEXT, "pattern": "^([0-9a-fA-F]{64})?$"},
    },
    "engine": {
        "label": "Engine",
        "description": (
            "auto, or an engine's name: llamacpp computes in a process of its own on the worker, openai asks an "
            "endpoint of that API."
        ),
        "schema": {"type": _TEXT},
    },
    "n_gpu_layers": {
        "label": "GPU layers",
        "description": "Layers of the model that go to the GPU; -1 for all. Empty: the engine decides.",
        "schema": {"type": _WHOLE, "minimum": -1},
    },
    "n_ctx": {
        "label": "Context",
        "description": "Tokens one row may use, prompt and answer together. Empty: the engine decides.",
        "schema": {"type": _WHOLE, "minimum": 1},
    },
    "n_parallel": {
        "label": "Rows at once",
        "description": "Rows the engine works on at the same time. Empty: the engine decides.",
        "schema": {"type": _WHOLE, "minimum": 1},
    },
    "endpoint": {
        "label": "Endpoint",
        "description": "URL of an OpenAI-compatible API, for the engine openai, such as http://gpu-box:8000/v1.",
        "schema": {"type": _TEXT, "format": "url"},
    },
}

CONFIGURATION: dict[str, Any] = {
    "mullama": {
        "description": "Settings of the provider airflow-mullama.",
        "options": {
            "default_model": {
                "description": "The model of a task whose operator and connection name none.",
                "version_added": "0.1.0",
                "type": "string",
                "example": "hf://owner/repo/file.gguf",
                "default": "",
            },
            "default_engine": {
                "description": "The engine of a task whose operator and connection name none.",
                "version_added": "0.1.0",
                "type": "string",
                "example": "llamacpp",
                "default": "auto",
            },
            "connection_test_seconds": {
                "description": "How long a connection test waits for the model to load, or for the endpoint to answer.",
                "version_added": "0.1.0",
                "type": "integer",
                "example": None,
                "default": "120",
            },
            "output_link": {
                "description": (
                    "Where a task's link to its output leads: a URL with ``{url}``, ``{scheme}``, ``{bucket}`` or "
                    "``{path}``, each percent-encoded. Without one, the link of S3, GCS and local outputs leads to "
                    "their own consoles or the file, and there is none for other stores."
                ),
                "version_added": "0.1.0",
                "type": "string",
                "example": "https://minio.example.com/browser/{bucket}/{path}",
                "default": "",
            },
        },
    }
}


def get_provider_info() -> dict[str, Any]:
    """The provider's description, of Airflow's ``provider_info.schema.json``."""
    return {
        "package-name": "airflow-mullama",
        "name": "Mullama",
        "description": "LLM text and embeddings next to Parquet rows, with GGUF models on your own GPU.",
        "versions": [__version__],
        "integrations": [{"integration-name": "Mullama", "tags": ["ai"]}],
        "operators": [
            {
                "integration-name": "Mullama",
                "python-modules": [
                    "airflow_mullama.operators.classify",
                    "airflow_mullama.operators.embed",
                    "airflow_mullama.operators.evaluate",
                    "airflow_mullama.operators.gate",
                    "airflow_mullama.operators.generate",
                    "airflow_mullama.operators.partitions",
                    "airflow_mullama.operators.summary",
                ],
            }
        ],
        "hooks": [{"integration-name": "Mullama", "python-modules": ["airflow_mullama.hooks.mullama"]}],
        "connection-types": [
            {
                "connection-type": "mullama",
                "hook-class-name": "airflow_mullama.hooks.mullama.MullamaHook",
                "hook-name": "Mullama",
                "conn-fields": CONNECTION_FIELDS,
                "ui-field-behaviour": {
                    # A URI or a secrets backend may still say host, port and schema: they make an endpoint.
                    "hidden-fields": ["host", "port", "schema", "login"],
                    "relabeling": {"password": "API key"},
                    "placeholders": {"extra": '{"engine_options": {"flash_attn": true}}'},
                },
            }
        ],
        "extra-links": [
            "airflow_mullama.operators.links.MullamaOutputLink",
            "airflow_mullama.operators.links.MullamaTabLink",
        ],
        # Airflow reads this one only where providers are discovered at once; elsewhere the entry point does the same.
        "plugins": [{"name": "mullama", "plugin-class": "airflow_mullama.plugin.registration.MullamaPlugin"}],
        "task-decorators": [
            {"name": "mullama_generate", "class-name": "airflow_mullama.decorators.mullama_generate_task"},
            {"name": "mullama_embed", "class-name": "airflow_mullama.decorators.mullama_embed_task"},
        ],
        "config": CONFIGURATION,
    }

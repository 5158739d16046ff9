"""Where an output schema comes from: a JSON Schema, a file of one, a Pydantic model class, a pyarrow schema."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from airflow_mullama.arguments import refuse_url
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.schemas.arrow_source import describe_arrow_schema
from airflow_mullama.schemas.json_source import read_json_schema
from airflow_mullama.schemas.output_schema import OutputSchema


def load_output_schema(source: Any) -> OutputSchema:
    """Read and check an output schema.

    Args:
        source: a JSON Schema as a dictionary; the path of a JSON file that holds one; a Pydantic 2 model class; a
            :class:`pyarrow.Schema`; or an :class:`OutputSchema`, which is returned as it is.

    Raises:
        ConfigurationError: the source cannot be read, or asks for something that is not supported; the message names
            the place in the schema, such as ``properties.tags.items``.
    """
    if isinstance(source, OutputSchema):
        return source
    if isinstance(source, pa.Schema):
        return OutputSchema(read_json_schema(*describe_arrow_schema(source)))
    if isinstance(source, Mapping):
        return OutputSchema(_read(source))
    if isinstance(source, (str, os.PathLike)):
        return OutputSchema(_read(read_json_file("output_schema", source)))
    if isinstance(source, type) and hasattr(source, "model_json_schema"):
        return OutputSchema(_read(_pydantic(source)))
    kind = source.__name__ if isinstance(source, type) else type(source).__name__
    if not isinstance(source, type) and hasattr(source, "model_json_schema"):
        raise ConfigurationError(f"output_schema is an instance of {kind}; pass the class {kind} itself.")
    raise ConfigurationError(
        f"output_schema cannot be made from {kind!r}; pass a JSON Schema as a dictionary or a file's path, a Pydantic "
        "2 model class, or a pyarrow.Schema."
    )


def _read(schema: Any) -> Any:
    try:
        return read_json_schema(schema)
    except RecursionError:  # a dictionary that holds itself
        raise ConfigurationError("output_schema: the schema is nested without end; make it flatter.") from None


def read_json_file(name: str, source: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Args:
        name: of the argument that names the file.
        source: its path.

    Raises:
        ConfigurationError: it is not there, or no JSON.
    """
    path = os.fspath(source)
    if isinstance(path, str) and path.lstrip().startswith(("{", "[")):
        raise ConfigurationError(
            f"{name} is a JSON text; a text is read as a file's path: pass json.loads(…) of it, or a path."
        )
    refuse_url(name, path)
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"{name}: the file {path!r} cannot be read: {reason}.") from None
    except (ValueError, TypeError) as error:  # TypeError: a path of bytes
        raise ConfigurationError(f"{name}: the file {path!r} is not JSON: {error}.") from None
    except RecursionError:
        raise ConfigurationError(f"{name}: the file {path!r} is nested too deeply.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) < len(pairs):
        raise ValueError(f"a key stands twice in the object with {', '.join(read)}")
    return read


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _pydantic(model: Any) -> Any:
    try:
        return model.model_json_schema()
    # What Pydantic raises for a type without JSON Schema is a RuntimeError, for an undefined name a NameError.
    except (RuntimeError, ValueError, TypeError, NameError, AttributeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"output_schema: {model.__name__} has no JSON Schema: {first}") from None

"""The provider's description, held against the schemas that Airflow checks it with."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from airflow_mullama import __version__
from airflow_mullama.get_provider_info import CONFIGURATION, CONNECTION_FIELDS, get_provider_info
from airflow_mullama.hooks.connection import OPTION_FIELDS

PACKAGE = Path(__file__).parents[1] / "airflow_mullama"


def airflow_schema(name: str) -> dict[str, Any]:
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    assert spec.submodule_search_locations
    for location in spec.submodule_search_locations:
        if (path := Path(location, name)).is_file():
            return dict(json.loads(path.read_text()))
    pytest.skip(f"this Airflow has no {name}")


def test_airflow_takes_the_description() -> None:
    schema = airflow_schema("provider_info.schema.json")
    jsonschema.validators.validator_for(schema)(schema).validate(get_provider_info())


def test_airflow_takes_the_connection_form() -> None:
    types = airflow_schema("provider.yaml.schema.json")["properties"]["connection-types"]
    if "conn-fields" not in types["items"]["properties"]:
        pytest.skip("this Airflow knows no declared form fields")
    jsonschema.validate(get_provider_info()["connection-types"], types)


def test_it_names_this_version() -> None:
    assert get_provider_info()["versions"] == [__version__]


def test_it_lists_the_modules_of_every_operator_and_hook() -> None:
    info = get_provider_info()
    for room in ("operators", "hooks"):
        (listed,) = info[room]
        assert listed["python-modules"] == sorted(modules_with_public_classes(PACKAGE / room))


def modules_with_public_classes(room: Path) -> list[str]:
    """Modules that define an operator or a hook, by the names of their classes: importing them starts Airflow."""
    found = []
    for path in room.glob("*.py"):
        classes = [one.name for one in ast.parse(path.read_text()).body if isinstance(one, ast.ClassDef)]
        if any(re.fullmatch(r"Mullama(\w+Operator|Hook)", name) for name in classes):
            found.append(f"airflow_mullama.{room.name}.{path.stem}")
    return found


def test_the_form_has_the_fields_that_are_read() -> None:
    assert set(CONNECTION_FIELDS) == {"model", "model_sha256", "engine", "endpoint", *OPTION_FIELDS}


def test_every_configuration_option_is_read_somewhere() -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for option in CONFIGURATION["mullama"]["options"]:
        assert f'setting("{option}"' in code, option

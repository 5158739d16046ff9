"""What the tab's routes answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

import airflow_mullama
from airflow_mullama.plugin.application import PAGES, application
from airflow_mullama.plugin.error_words import row_contract
from airflow_mullama.plugin.routes import URL_PREFIX
from airflow_mullama.rows import ErrorType, Status

ASSETS = sorted(path.name for path in PAGES.iterdir() if path.suffix != ".html")
ADDRESSES = ["task", "run", "row-contract.json", *ASSETS]
TYPES = {
    "": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "json": "application/json",
}


@pytest.fixture(params=["", "/team/airflow"])
def client(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """The application as Airflow mounts it, with a base URL with and without a path."""
    airflow = Starlette(routes=[Mount(URL_PREFIX, app=application())])
    with TestClient(airflow, base_url=f"http://airflow{request.param}", root_path=request.param) as client:
        yield client


@pytest.mark.parametrize("address", ADDRESSES)
def test_everything_is_served_with_strict_headers(client: TestClient, address: str) -> None:
    answer = client.get(f"mullama/{address}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == TYPES[address.partition(".")[2]]
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["frame-ancestors"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_unchanged_file_is_not_sent_twice(client: TestClient) -> None:
    first = client.get("mullama/task.js")
    again = client.get("mullama/task.js", headers={"If-None-Match": f'W/{first.headers["etag"]}, "other"'})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" in again.headers
    assert client.get("mullama/run.js", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


@pytest.mark.parametrize(
    "address", ["", "task.html", "pages/task.js", "../__init__.py", "%2e%2e/routes.py", "application.py"]
)
def test_nothing_else_can_be_asked_for(client: TestClient, address: str) -> None:
    answer = client.get(f"mullama/{address}")
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_nothing_can_be_sent(client: TestClient) -> None:
    answer = client.post("mullama/task")
    assert answer.status_code == 405
    assert "content-security-policy" in answer.headers


def test_the_page_is_told_of_every_status_and_error_type(client: TestClient) -> None:
    contract = client.get("mullama/row-contract.json").json()
    assert contract == row_contract()
    assert [one["name"] for one in contract["statuses"]] == [status.value for status in Status]
    assert {one["name"]: (one["status"], one["retryable"]) for one in contract["error_types"]} == {
        error_type.value: (error_type.status.value, error_type.retryable) for error_type in ErrorType
    }
    assert all(one["meaning"] for kind in contract.values() for one in kind)


@pytest.mark.parametrize("page", ["task", "run"])
def test_a_page_needs_nothing_from_elsewhere_and_nothing_inline(client: TestClient, page: str) -> None:
    html = client.get(f"mullama/{page}").text
    for address in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert client.get(f"mullama/{address}").status_code == 200
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=", html)


def javascript() -> dict[str, str]:
    return {path.name: path.read_text() for path in PAGES.glob("*.js")}


def test_every_module_that_is_imported_is_served(client: TestClient) -> None:
    imported = {name for code in javascript().values() for name in re.findall(r'from "\./([^"]+)"', code)}
    assert imported | {"task.js", "run.js"} == set(javascript())


def test_no_text_is_read_as_markup() -> None:
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser")
    assert {name: found for name, code in javascript().items() if (found := forbidden.findall(code))} == {}


def test_nothing_is_loaded_from_another_machine() -> None:
    for path in Path(airflow_mullama.__file__).parent.joinpath("plugin", "pages").iterdir():
        addresses: list[Any] = re.findall(r"https?://[^\s\"')]+", path.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path.name

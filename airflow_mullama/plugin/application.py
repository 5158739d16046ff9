"""Serves the page: fixed files with strict headers, and the row contract as JSON.

No data goes through here. The page reads what it shows from Airflow's own REST API with the user's session, so that
Airflow decides who may see what; these routes say the same to everybody and ask nobody who they are.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from airflow_mullama.plugin.routes import RUN_PAGE, TASK_PAGE

PAGES = Path(__file__).parent / "pages"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
        "require-trusted-types-for 'script'",
    ]
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Asked for again each time, so that an upgrade never mixes two versions; unchanged files answer 304.
    "Cache-Control": "no-cache",
}


@functools.cache
def application() -> Starlette:
    """The ASGI application; it may be mounted below any path."""
    return Starlette(
        routes=[
            *(Route(f"/{name}", functools.partial(_file, name=name)) for name in _files()),
            Route("/row-contract.json", _row_contract),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed},
    )


@functools.cache
def _files() -> dict[str, tuple[bytes, str]]:
    """Every file that is served, by its address: nothing else can be asked for."""
    files = {path.name: path for path in sorted(PAGES.iterdir()) if path.suffix in CONTENT_TYPES}
    for page in (TASK_PAGE, RUN_PAGE):
        files[page] = files.pop(f"{page}.html")
    return {name: (path.read_bytes(), CONTENT_TYPES[path.suffix]) for name, path in files.items()}


async def _file(request: Request, *, name: str) -> Response:
    body, content_type = _files()[name]
    return _answer(request, body, content_type)


# Not `async`: Starlette gives it a thread, where the first import of PyArrow holds nobody up.
def _row_contract(request: Request) -> Response:
    from airflow_mullama.plugin.error_words import row_contract

    return _answer(request, json.dumps(row_contract()).encode(), "application/json")


def _answer(request: Request, body: bytes, content_type: str) -> Response:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}
    known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=content_type, headers=headers)


async def _not_found(request: Request, error: Exception) -> Response:
    return Response("There is nothing at this address.\n", 404, HEADERS, "text/plain; charset=utf-8")


async def _not_allowed(request: Request, error: Exception) -> Response:
    return Response("This address can only be read.\n", 405, {**HEADERS, "Allow": "GET, HEAD"}, "text/plain")

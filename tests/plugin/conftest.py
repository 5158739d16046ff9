from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 120_000
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No page lives long enough for optimized code to be worth what compiling it takes.
    "--js-flags=--no-opt --no-maglev",
]
# Airflow's own page gives the frame of every plugin both rights.
NOT_OURS = "can escape its sandboxing"


@pytest.fixture(scope="session")
def installed_plugin() -> None:
    """Airflow finds plugins by what is installed."""
    try:
        groups = {one.group for one in distribution("airflow-mullama").entry_points}
    except PackageNotFoundError:
        groups = set()
    if "airflow.plugins" not in groups:
        pytest.skip("Airflow finds plugins that are installed (make test)")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = tmp_path_factory.mktemp("tab") / "lake"
    for day, rows in ((1, 100), (2, 60), (3, 1440)):
        texts = [None if row == 7 else f"ticket number {row}" for row in range(rows)]
        partition = lake / f"ds={day}" / "rows.parquet"
        partition.parent.mkdir(parents=True)
        pq.write_table(pa.table({"id": range(rows), "text": texts}), partition)
    return lake


@pytest.fixture(scope="module")
def patiently() -> Callable[..., Any]:
    def wait(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
        pause = threading.Event()
        for _ in range(int(seconds / 0.2)):
            try:
                if value := condition():
                    return value
            except (OSError, ValueError):
                pass
            pause.wait(0.2)
        return pytest.fail(f"it did not come about within {seconds:g} s")

    return wait


@pytest.fixture(scope="module")
def browser(installed_plugin: None) -> Iterator[Any]:
    """A real one, without a window."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(_runs, filter(None, map(shutil.which, BROWSERS))), None)
    if chromium is None:
        pytest.skip(f"there is no browser: one of {', '.join(BROWSERS)}")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, *root])
        yield browser
        browser.close()


def _runs(browser: str) -> bool:
    """Some distributions put a script there that only says how to install one."""
    return subprocess.run([browser, "--version"], capture_output=True, check=False).returncode == 0


class Tab:
    """One page of the browser, with whatever its console complained of."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))

    def _note(self, message: Any) -> None:
        if message.type not in ("error", "warning") or NOT_OURS in message.text:
            return
        # The tab that common.ai puts beside ours asks whether there is anything to review; that there is not is a 404.
        if "/hitl-review/" not in (message.location.get("url") or ""):
            self.complaints.append(f"{message.text} {message.location.get('url')}")

    def open(self, address: str) -> Any:
        """Go to a page of Airflow's UI that has our tab open; its frame."""
        self.page.goto(address)
        return self.frame()

    def frame(self) -> Any:
        frame = self.page.frame_locator("iframe[title=Mullama]")
        frame.locator("main:not([aria-busy])").wait_for()
        return frame


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    """One for all tests, so that Airflow's own pages are fetched and compiled once; what they keep is not."""
    context = browser.new_context(
        locale="en-GB",
        timezone_id="Europe/Berlin",
        viewport={"width": 1400, "height": 1000},
        reduced_motion="reduce",  # without a GPU, what moves while Airflow's pages load takes a third of the CPU
    )
    context.set_default_timeout(WAIT_MS)
    context.add_init_script("if (window === top && !window.name) { localStorage.clear(); window.name = 'begun' }")
    yield context
    context.close()


@pytest.fixture
def tab(context: Any) -> Iterator[Tab]:
    tab = Tab(context.new_page())
    yield tab
    for page in context.pages:
        page.close()
    context.clear_cookies()
    context.clear_permissions()
    assert tab.complaints == []

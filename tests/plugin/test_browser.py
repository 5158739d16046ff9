"""The tab in a real browser, inside the UI of a real Airflow that has run real tasks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pytest

from airflow_mullama.demo.airflow.client import TaskInstance
from airflow_mullama.demo.airflow.environment import HOST, airflow_environment
from airflow_mullama.demo.airflow.server import AirflowServer, airflow_command, free_port
from airflow_mullama.plugin.routes import RUN_ROUTE, TASK_ROUTE, task_tab

playwright_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven with Playwright")
expect = playwright_api.expect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.browser,
]

DAG, SLOW_DAG = "mullama_tab", "mullama_slow_tab"
RUN = "manual__2026-11-23T10:00:00+00:00"
READER, OUTSIDER, PASSWORD = "reader", "outsider", "a password"
BASE_PATH = "/team/airflow"


@pytest.fixture(scope="module")
def airflow(lake: Path, browser: Any, migrated_home: Callable[[Path], Path]) -> Iterator[AirflowServer]:
    """An Airflow in which everybody is an administrator, whose tasks have run; a slow one still does."""
    server = AirflowServer(
        migrated_home(lake.parent / "home"),
        dags=Path(__file__).parent / "dags",
        environment={"AIRFLOW_MULLAMA_TEST_LAKE": str(lake)},
        parallelism=4,
    )
    with server:
        server.wait_for_dags([DAG, SLOW_DAG])
        server.client.trigger(DAG, RUN)
        server.client.trigger(SLOW_DAG, RUN)
        yield server
        server.client.fail_unfinished_runs()


@pytest.fixture(scope="module")
def strict_airflow(airflow: AirflowServer, lake: Path) -> Iterator[str]:
    """A second API server of the same Airflow: it wants a password, and its base URL has a path. The URL."""
    port = free_port()
    url = f"http://{HOST}:{port}{BASE_PATH}"
    passwords = lake.parent / "passwords.json"
    passwords.write_text(json.dumps({READER: PASSWORD, OUTSIDER: PASSWORD}))
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{READER}:viewer,{OUTSIDER}:viewer",
        "AIRFLOW__CORE__AUTH_MANAGER": "guarded_auth_manager.GuardedAuthManager",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW_MULLAMA_TEST_LAKE": str(lake),
    }
    environment = airflow_environment(
        airflow.home, dags=Path(__file__).parent / "dags", url=url, parallelism=1, further=settings
    )
    command = airflow_command("api-server", "--host", HOST, "--port", str(port), "--workers", "1")
    with (lake.parent / "strict.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def instances(
    airflow: AirflowServer, strict_airflow: str, patiently: Callable[..., Any]
) -> dict[tuple[str, int], TaskInstance]:
    """The task instances of the finished run, by task and index."""
    patiently(lambda: airflow.client.run_state(DAG, RUN) in ("success", "failed"))
    found = {(one.task_id, one.map_index): one for one in airflow.client.task_instances(DAG, RUN)}
    assert {task for (task, _), one in found.items() if one.state != "success"} == {"over_budget"}
    return found


expect.set_options(timeout=120_000)


def address(airflow: AirflowServer, task: str, map_index: int = -1, dag: str = DAG) -> str:
    return f"{airflow.url}/{task_tab(dag, RUN, task, map_index)}"


def run_address(airflow: AirflowServer, dag: str = DAG) -> str:
    return f"{airflow.url}/dags/{dag}/runs/{quote(RUN, safe='')}/plugin/{RUN_ROUTE}"


def bare_address(airflow: AirflowServer, task: str, map_index: str = "{MAP_INDEX}") -> str:
    """Of the page in the frame; Airflow 3.1 leaves the ids in it as they are.

    Airflow's own pages around it take seconds: they are for what has to do with them.
    """
    return f"{airflow.url}/mullama/task?dag={DAG}&run={RUN}&task={task}&map_index={map_index}"


def test_a_running_task_shows_how_far_it_is(airflow: AirflowServer, tab: Any, patiently: Callable[..., Any]) -> None:
    patiently(lambda: airflow.client.task_instances(SLOW_DAG, RUN)[0].state == "running")
    frame = tab.open(address(airflow, "slow", dag=SLOW_DAG))
    bar = frame.get_by_role("progressbar", name="Rows done")
    expect(bar).to_have_attribute("aria-valuemax", "1540")  # of both partitions
    expect(frame.get_by_text("Partition 1 of 2")).to_be_visible()
    expect(frame.get_by_role("heading", name="What was asked")).to_be_visible()
    expect(frame.get_by_text("rows/s")).to_be_visible()
    first = int(bar.get_attribute("aria-valuenow"))
    # It is asked for again by itself.
    expect(bar).not_to_have_attribute("aria-valuenow", str(first))
    assert int(bar.get_attribute("aria-valuenow")) > first > 0
    # Airflow does not answer for a while: what is known stays, with a word on it, until it does.
    tab.page.route("**/api/v2/**", lambda route: route.abort())
    expect(frame.get_by_text("Airflow does not answer; trying again soon.")).to_be_visible()
    expect(bar).to_be_visible()
    tab.page.unroute("**/api/v2/**")
    expect(frame.get_by_text("Airflow does not answer")).to_have_count(0)
    tab.complaints.clear()
    frame = tab.open(run_address(airflow, SLOW_DAG))
    expect(frame.get_by_role("progressbar", name="Rows done by slow")).to_be_visible()
    expect(frame.get_by_text("1 task instance running")).to_be_visible()
    whole = frame.get_by_role("progressbar", name="Rows done by this run")
    expect(whole).to_have_attribute("aria-valuemax", "1540")
    expect(frame.get_by_text(re.compile(r"^about \d"))).to_be_visible()  # the time left


def test_a_finished_task_shows_its_manifest(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    manifest = airflow.client.xcom(DAG, RUN, instances["finished", -1])
    tab.page.goto(bare_address(airflow, "finished"))
    expect(tab.page.locator("#rows")).to_have_text(str(manifest["rows"]))
    counts = manifest["status_counts"]
    assert (counts["success"], counts["failed"], counts["skipped"]) == (154, 4, 2)
    expect(tab.page.get_by_role("img", name="Rows by status: 154 success, 4 failed, 2 skipped")).to_be_visible()
    errors = tab.page.get_by_role("table", name="Errors by type").locator("tbody tr")
    assert [" ".join(row.split()) for row in errors.all_inner_texts()] == [
        "engine_error The engine could not compute the row. yes, at the next run 4 2.5 %",
        "null_input The input is null: nothing was asked. no 2 1.3 %",
    ]
    expect(tab.page.get_by_text("4 failed (2.5 %)")).to_be_visible()
    expect(tab.page.get_by_text(manifest["request_fingerprint"], exact=True)).to_be_visible()
    assert json.loads(tab.page.locator("details pre").text_content()) == manifest
    expect(tab.page.get_by_text(re.compile(r"(CET|GMT\+1)$")).first).to_be_visible()
    partitions = tab.page.get_by_role("table", name="Partitions")
    sort = partitions.get_by_role("button", name="Rows", exact=True)
    for order, rows in (("descending", ["100", "60"]), ("ascending", ["60", "100"])):
        sort.press("Enter")
        expect(partitions.get_by_role("columnheader", name="Rows", exact=False).first).to_have_attribute(
            "aria-sort", order
        )
        assert partitions.locator("tbody td:nth-child(2)").all_inner_texts() == rows


def test_its_query_finds_the_failed_rows_and_what_looks_like_markup_is_text(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    frame = tab.open(address(airflow, "finished"))
    query = frame.locator("#query").inner_text()
    assert "it''s <img src=x onerror=alert(1)> [[]a] 100%" in query
    found = duckdb.sql(query).fetchall()
    assert [(error_type, rows) for error_type, _, rows in found] == [("engine_error", 2), ("engine_error", 2)]
    expect(frame.get_by_text("it's <img src=x onerror=alert(1)> [a] 100%").first).to_be_visible()
    assert frame.locator("img").count() == 0
    tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    frame.get_by_role("button", name="Copy the query").click()
    expect(frame.get_by_role("button", name="Copy the query")).to_have_text("Copied")
    assert tab.page.evaluate("navigator.clipboard.readText()") == query


def test_a_task_over_its_error_budget_shows_what_it_left(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "over_budget"))
    expect(tab.page.get_by_text("4 failed (4 %)")).to_be_visible()
    expect(tab.page.locator(".state")).to_have_text("failed")
    why = "4 of 100 rows of .*ds=1/rows.parquet failed .*, which is more than max_error_ratio=0.01 allows"
    expect(tab.page.get_by_text(re.compile(why))).to_be_visible()
    expect(tab.page.get_by_label("Prompt", exact=True)).to_have_text(f"For <b>{RUN}</b>: {{text}}")
    expect(tab.page.locator("dd", has_text='{"faults":{"fail":[0,1,2,3]}}')).to_be_visible()
    expect(tab.page.locator("dt", has_text="max_tokens")).to_be_visible()
    assert duckdb.sql(tab.page.locator("#query").inner_text()).fetchall()[0][0] == "engine_error"


def test_a_mapped_instance_has_its_own_numbers(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "mapped", "2"))
    expect(tab.page.get_by_role("heading", name="mapped [ds=3]")).to_be_visible()
    expect(tab.page.locator("#rows")).to_have_text("1,440")
    expect(tab.page.get_by_text("none failed")).to_be_visible()


def test_a_mapped_task_without_an_index_shows_its_instances(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "mapped"))
    rows = tab.page.get_by_role("table", name="Task instances").locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(tab.page.locator("#rows")).to_have_text("1,600")
    # Airflow refuses a mapped task that is named without an index, and the browser notes that.
    tab.complaints = [one for one in tab.complaints if "404" not in one]


def test_the_summary_shows_the_whole(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "summary"))
    expect(tab.page.locator("#rows")).to_have_text("1,600")
    expect(tab.page.get_by_role("heading", name="Tasks before this one")).to_be_visible()


def test_a_missing_task_is_a_link_to_its_tab(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    frame = tab.open(address(airflow, "of_failed"))
    frame.get_by_role("link", name="over_budget").click()
    tab.page.wait_for_url(f"**/tasks/over_budget/plugin/{TASK_ROUTE}")


def test_a_task_whose_xcom_is_not_there_shows_what_its_state_store_has(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "unpushed"))
    expect(tab.page.locator("#rows")).to_have_text("100")
    expect(tab.page.get_by_text("none failed")).to_be_visible()


@pytest.mark.parametrize("task", ["subclass", "decorated"])
def test_a_subclass_and_a_decorated_function_are_ours_too(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any, task: str
) -> None:
    tab.page.goto(bare_address(airflow, task))
    expect(tab.page.locator("#rows")).to_have_text("100")


def test_somebody_elses_task_has_one_sentence(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "foreign"))
    expect(tab.page.locator("main")).to_have_text("This task does not use Mullama, so there is nothing to show here.")


def test_a_run_adds_up_its_tasks_and_leads_to_each(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    frame = tab.open(run_address(airflow))
    expect(frame.get_by_role("heading", name="8 task instances", exact=True)).to_be_visible()
    expect(frame.locator("#rows")).to_have_text("2,160")
    expect(frame.get_by_text("8 failed (0.4 %)")).to_be_visible()
    table = frame.get_by_role("table", name="Task instances")
    assert [text.split("\t")[0] for text in table.locator("tbody tr").all_inner_texts()] == [
        "decorated",
        "finished",
        "mapped [ds=1]",
        "mapped [ds=2]",
        "mapped [ds=3]",
        "over_budget",
        "subclass",
        "unpushed",
    ]
    expect(frame.get_by_role("heading", name="Why tasks failed")).to_be_visible()
    table.get_by_role("link", name="mapped [ds=2]").click()
    tab.page.wait_for_url(f"**/tasks/mapped/mapped/1/plugin/{TASK_ROUTE}")
    expect(tab.frame().locator("#rows")).to_have_text("60")


def test_a_link_of_the_task_leads_to_its_tab(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(address(airflow, "mapped", 2).removesuffix(f"plugin/{TASK_ROUTE}") + "details")
    link = tab.page.locator(f"a[href$='mapped/2/plugin/{TASK_ROUTE}']", has_text="Mullama").and_(
        tab.page.locator("a[rel]")
    )
    link.click()
    expect(tab.frame().locator("#rows")).to_have_text("1,440")


def test_it_is_as_dark_as_the_ui(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.add_init_script("localStorage.setItem('theme', 'dark')")
    frame = tab.open(address(airflow, "subclass"))
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    # What the UI does when somebody changes it.
    tab.page.evaluate("document.documentElement.classList.replace('dark', 'light')")
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")


def test_it_fits_a_narrow_window(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.set_viewport_size({"width": 700, "height": 900})
    tab.page.goto(bare_address(airflow, "finished"))
    expect(tab.page.locator("#rows")).to_be_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def call(tab: Any, airflow: AirflowServer, module: str, function: str, *arguments: Any) -> Any:
    """What a function of the page's own modules returns."""
    tab.page.goto(f"{airflow.url}/mullama/{module}")
    code = f"async (given) => (await import('./{module}')).{function}(...given)"
    return tab.page.evaluate(code, list(arguments))


@pytest.mark.parametrize(
    ("output", "in_query"),
    [
        ("/lake/a*b?.parquet", "'/lake/a[*]b[?].parquet'"),
        ("file:///lake/x.parquet", "'/lake/x.parquet'"),
        ("s3://connection@bucket/ds=1/x.parquet", "'s3://bucket/ds=1/x.parquet'"),
        ("/lake/a\\b.parquet", "'/lake/a\\b.parquet'"),
        ("/lake/a\\b[1].parquet", None),
        ("gs://bucket/it's.parquet", "'gs://bucket/it''s.parquet'"),
        ("abfss://container@account.dfs.core.windows.net/x.parquet", None),
    ],
)
def test_a_query_reads_only_what_duckdb_can(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any, output: str, in_query: str | None
) -> None:
    manifest = {"output_path": output, "output_prefix": "", "status_counts": {"failed": 1}}
    found = call(tab, airflow, "duckdb-query.js", "duckdbQuery", manifest)
    assert (found is None) if in_query is None else (in_query in found["query"])
    del manifest["output_prefix"]  # of another kind of task, or an older one: the columns' names are not known
    assert (
        tab.page.evaluate("async (argument) => (await import('./duckdb-query.js')).duckdbQuery(argument)", manifest)
        is None
    )


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?dag=a%20b&run=x%2B1&task=g.t%2F1&map_index=7", {"dag": "a b", "run": "x+1", "task": "g.t/1", "mapIndex": 7}),
        # As Airflow 3.1 leaves them.
        ("?dag=d&run=x+1:00&task=t&map_index={MAP_INDEX}", {"dag": "d", "run": "x+1:00", "task": "t", "mapIndex": -1}),
        ("?dag=d&run=100%&task=", {"dag": "d", "run": "100%", "task": "", "mapIndex": -1}),
    ],
)
def test_ids_are_read_as_either_airflow_writes_them(
    airflow: AirflowServer,
    instances: dict[tuple[str, int], TaskInstance],
    tab: Any,
    query: str,
    ids: dict[str, Any],
) -> None:
    assert call(tab, airflow, "address.js", "idsFromQuery", query) == ids


@pytest.mark.parametrize("dots", [".", ".."])
def test_an_id_that_is_a_step_in_an_address_is_not_asked_for(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any, dots: str
) -> None:
    ids = {"dag": DAG, "run": RUN, "task": "finished", "mapIndex": -1}
    assert call(tab, airflow, "address.js", "instanceTab", ids) is not None
    assert call(tab, airflow, "address.js", "instanceTab", {**ids, "task": dots}) is None
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.goto(f"{airflow.url}/mullama/task?dag={DAG}&run={RUN}&task={dots}&map_index=-1")
    expect(tab.page.locator("main")).to_contain_text(f'The id "{dots}" has no address in Airflow\'s API')
    assert not [url for url in asked if "/api/v2/" in url]


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [
        (29, 100, "29 %"),
        (2999, 3000, "99.9 %"),
        (1, 3000, "< 0.1 %"),
        (0, 7, "0 %"),
        (2, 160, "1.3 %"),
        (7, 7, "100 %"),
        (0, 0, "0 %"),
    ],
)
def test_a_share_is_exact_and_never_rounded_up_to_all(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any, part: int, whole: int, words: str
) -> None:
    assert call(tab, airflow, "format.js", "percent", part, whole) == words


@pytest.mark.parametrize(
    ("states", "far"),
    [
        (
            [
                {"state": "success", "manifest": {"rows": 100}},
                {"state": "running", "progress": {"done": 30, "total": 100, "rows_per_second": 10}},
                {"state": "failed", "progress": {"done": 20, "total": 100, "rows_per_second": 10}},
                {"state": "skipped"},
            ],
            {"done": 150, "total": 220, "running": 1, "waiting": 0, "about": False, "eta": 7},
        ),
        (
            [
                {"state": "up_for_retry", "progress": {"done": 30, "total": 100, "rows_per_second": 10}},
                {"state": "running", "progress": {"done": 0, "total": 300, "rows_per_second": 5}},
                {"state": None},
            ],
            {"done": 30, "total": 600, "running": 1, "waiting": 1, "about": True, "eta": 114},
        ),
        ([{"state": "running"}], {"done": 0, "total": 0, "running": 1, "waiting": 1, "about": False, "eta": None}),
    ],
)
def test_a_run_is_as_far_as_all_its_tasks(
    airflow: AirflowServer,
    instances: dict[tuple[str, int], TaskInstance],
    tab: Any,
    states: list[dict[str, Any]],
    far: dict[str, Any],
) -> None:
    found = call(tab, airflow, "instances-view.js", "farOf", states)
    assert {name: found.get(name) for name in far} == far


def look_again(tab: Any) -> None:
    """As when the reader comes back to the page."""
    tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_what_is_shown_stays_below_a_notice_while_airflow_does_not_answer(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    tab.page.goto(bare_address(airflow, "over_budget"))
    expect(tab.page.locator("#rows")).to_have_text("100")
    tab.page.context.set_offline(True)
    tab.page.evaluate("document.querySelector('#rows').dataset.old = 'yes'")
    # What is final is not asked for by itself; a look at it is.
    look_again(tab)
    expect(tab.page.locator("#notice")).to_have_text("Airflow does not answer; trying again soon.")
    look_again(tab)
    expect(tab.page.locator("#notice")).to_have_count(1)
    expect(tab.page.locator("#rows")).to_have_attribute("data-old", "yes")
    tab.page.context.set_offline(False)
    look_again(tab)
    expect(tab.page.locator("#notice")).to_have_count(0)
    expect(tab.page.locator("#rows")).to_have_text("100")
    assert all("ERR_INTERNET_DISCONNECTED" in one for one in tab.complaints)
    tab.complaints.clear()


def sign_in(url: str, user: str, tab: Any) -> None:
    tab.page.goto(f"{url}/auth/login")
    tab.page.get_by_label("Username").fill(user)
    tab.page.locator("input[type=password]").fill(PASSWORD)
    tab.page.locator("button[type=submit]").click()
    tab.page.wait_for_url(lambda address: "/auth/" not in address)
    tab.complaints.clear()  # of the page for signing in, which is Airflow's


@pytest.fixture
def ready_strict_airflow(
    strict_airflow: str, instances: dict[tuple[str, int], TaskInstance], patiently: Callable[..., Any]
) -> str:
    health = f"{strict_airflow}/api/v2/monitor/health"
    patiently(lambda: urllib.request.urlopen(health, timeout=5).status == 200)
    return strict_airflow


def test_it_works_below_a_base_url_with_a_path(ready_strict_airflow: str, tab: Any) -> None:
    url = ready_strict_airflow
    sign_in(url, READER, tab)
    frame = tab.open(f"{url}/{task_tab(DAG, RUN, 'mapped', 2)}")
    expect(frame.locator("#rows")).to_have_text("1,440")
    tab.page.goto(f"{url}/{task_tab(DAG, RUN, 'finished')}".removesuffix(f"plugin/{TASK_ROUTE}") + "details")
    tab.page.locator(f"a[rel][href$='plugin/{TASK_ROUTE}']", has_text="Mullama").click()
    tab.page.wait_for_url(f"{url}/{task_tab(DAG, RUN, 'finished')}")
    expect(tab.frame().locator("#rows")).to_have_text("160")


@pytest.mark.parametrize("page", ["task", "run"])
def test_whoever_is_signed_out_is_told_so(ready_strict_airflow: str, tab: Any, page: str) -> None:
    tab.page.goto(f"{ready_strict_airflow}/mullama/{page}?dag={DAG}&run={RUN}&task=finished")
    expect(tab.page.locator("main")).to_have_text(
        "You are signed out of Airflow: sign in again, then come back to this tab."
    )
    assert all("401" in one for one in tab.complaints)
    tab.complaints.clear()


def test_whoever_may_not_see_xcoms_is_told_so(ready_strict_airflow: str, tab: Any) -> None:
    sign_in(ready_strict_airflow, OUTSIDER, tab)
    tab.page.goto(f"{ready_strict_airflow}/mullama/task?dag={DAG}&run={RUN}&task=finished")
    expect(tab.page.locator("main")).to_have_text(
        "You may not see what is shown of this task: ask for access to the task instances and XComs of this DAG."
    )
    assert all("403" in one for one in tab.complaints)
    tab.complaints.clear()


def test_a_task_that_is_cleared_shows_nothing_of_its_last_attempt(
    airflow: AirflowServer, instances: dict[tuple[str, int], TaskInstance], tab: Any
) -> None:
    """The last test here: nothing of the run is as it was afterwards."""
    tab.page.goto(bare_address(airflow, "decorated"))
    expect(tab.page.locator("#rows")).to_have_text("100")
    # What is cleared of a paused DAG waits, and its XCom is still there.
    airflow.client._request("PATCH", f"/api/v2/dags/{DAG}", {"is_paused": True})
    clear = {"dry_run": False, "dag_run_id": RUN, "task_ids": ["decorated"], "only_failed": False}
    airflow.client._request("POST", f"/api/v2/dags/{DAG}/clearTaskInstances", clear)
    look_again(tab)
    expect(tab.page.locator("main")).to_contain_text("Not started yet")

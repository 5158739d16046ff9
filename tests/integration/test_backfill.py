"""A week of the shipped daily DAG, by `airflow backfill create` and a real scheduler."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.airflow_client import AirflowClient
from airflow_mullama.demo.airflow_environment import airflow_environment
from airflow_mullama.demo.airflow_server import COMPONENTS, free_port
from airflow_mullama.demo.run import dags_directory
from airflow_mullama.demo.tickets import generate_tickets
from airflow_mullama.models.resolve import locate_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not locate_model("demo:ticket-tagger")[0].is_file(), reason="the ticket tagger's GGUF file is not there"
    ),
]

DAG_ID = "daily_backfill"
FIRST_DAY = "datetime(2026, 3, 2, tzinfo=timezone.utc)"
ROWS = 12
RUN_COMMANDS = """
import shlex, sys
from airflow.__main__ import main
for command in sys.argv[1:]:
    sys.argv = ["airflow", *shlex.split(command)]
    main()
"""


class DailyDag:
    """The shipped DAG file in an Airflow of its own, its first day moved to a week ago.

    The scheduler does not run while a backfill is made: on SQLite, two writers would lock each other out. (Airflow asks
    for another database in production.)
    """

    def __init__(self, folder: Path) -> None:
        today = datetime.datetime.now(datetime.timezone.utc).date()
        self.days = [str(today - datetime.timedelta(days=back)) for back in range(7, 0, -1)]
        self.lake = folder / "lake"
        self.outputs = self.lake / "tickets_tagged_daily"
        text = (dags_directory() / f"{DAG_ID}.py").read_text()
        assert text.count(FIRST_DAY) == 1
        first = f"datetime.fromisoformat('{self.days[0]}').replace(tzinfo=timezone.utc)"
        (folder / "dags").mkdir()
        (folder / "dags" / f"{DAG_ID}.py").write_text(text.replace(FIRST_DAY, first))
        self.home = folder / "home"
        self.home.mkdir()
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self.client = AirflowClient(url)
        self._arguments = {
            name: [argument.format(port=port) for argument in arguments] for name, arguments in COMPONENTS.items()
        }
        self._environment = airflow_environment(
            self.home,
            dags=folder / "dags",
            url=url,
            parallelism=2,
            further={"AIRFLOW_MULLAMA_LAKE": str(self.lake)},
        )

    def write(self, day: str, texts: list[str]) -> None:
        path = self.lake / "tickets" / f"ds={day}" / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts}), path)

    def written(self) -> dict[str, tuple[int, int]]:
        """What tells an output file from any other that ever lay there, for each day."""
        found = {}
        for path in self.outputs.glob("ds=*/*.parquet"):
            found[path.parent.name.removeprefix("ds=")] = (path.stat().st_ino, path.stat().st_mtime_ns)
        return found

    def cli(self, *commands: str) -> None:
        """Run `airflow` commands, one after the other in one process: each start of it costs seconds."""
        done = subprocess.run(
            [sys.executable, "-c", RUN_COMMANDS, *commands],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def answers(self) -> bool:
        """Whether the API server does."""
        with contextlib.suppress(OSError):
            return bool(self.client.health())
        return False

    @contextlib.contextmanager
    def component(self, name: str) -> Iterator[None]:
        """Run one of Airflow's components; all of its processes have ended afterwards."""
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", *self._arguments[name]],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield
            assert process.poll() is None, (self.home / f"{name}.log").read_text()[-2000:]
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def backfill(self, eventually: Callable[..., Any], days: list[str], options: str = "") -> dict[str, dict[str, Any]]:
        """Backfill these days and wait for the end; each day's state and manifest."""
        self.cli(
            f"backfill create --dag-id {DAG_ID} --from-date {days[0]} --to-date {days[-1]} --max-active-runs 2 "
            + options,
            f"dags unpause {DAG_ID} --yes",
        )

        def runs() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = self.client.get(f"/api/v2/dags/{DAG_ID}/dagRuns")["dag_runs"]
            return found

        with self.component("scheduler"):
            eventually(lambda: {run["state"] for run in runs()} <= {"success", "failed"}, seconds=240)
        for backfill in self.client.get(f"/api/v2/backfills?dag_id={DAG_ID}")["backfills"]:
            if backfill["completed_at"] is None:
                # Its runs have ended. The scheduler would find that out within half a minute; this tells it now.
                self.client._request("PUT", f"/api/v2/backfills/{backfill['id']}/cancel", None)
        assert {run["state"] for run in runs()} == {"success"}
        assert [run["run_type"] for run in runs()] == ["backfill"] * 7  # the schedule added none for the same days
        found = {}
        for run in runs():
            day = run["logical_date"][:10]
            if day in days:
                (task,) = self.client.task_instances(DAG_ID, run["dag_run_id"])
                manifest = self.client.xcom(DAG_ID, run["dag_run_id"], task) or {}
                found[day] = {"state": task.state, **manifest}
        assert sorted(found) == days
        return found


def test_a_week_is_written_once_and_a_second_backfill_computes_what_changed(
    tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    daily = DailyDag(tmp_path)
    tickets = [ticket.text for ticket in generate_tickets(8 * ROWS, seed=7)]
    texts = {day: tickets[number * ROWS : (number + 1) * ROWS] for number, day in enumerate(daily.days)}
    changed, late = daily.days[1], daily.days[2]
    for day in daily.days:
        if day != late:
            daily.write(day, texts[day])
    daily.cli("db migrate", "dags reserialize")
    with daily.component("api-server"):
        eventually(daily.answers, seconds=120)
        first = daily.backfill(eventually, daily.days)
        outputs = daily.written()
        assert sorted(outputs) == sorted(set(daily.days) - {late})
        for day, one in first.items():
            if day == late:
                assert one == {"state": "skipped"}
            else:
                assert (one["state"], one["computed_rows"], one["status_counts"]) == (
                    "success",
                    ROWS,
                    {"success": ROWS},
                )
                assert one["seconds"]["model_load"] > 0

        second = daily.backfill(eventually, daily.days, "--reprocess-behavior completed")
        assert daily.written() == outputs
        for day, one in second.items():
            if day == late:
                assert one == {"state": "skipped"}
            else:
                assert (one["skipped"], one["computed_rows"], one["rows"]) == ("up_to_date", 0, ROWS)
                assert one["seconds"] == dict.fromkeys(one["seconds"], 0.0)  # the model's load among them

        texts[changed][3] = tickets[-1]
        daily.write(changed, texts[changed])
        daily.write(late, texts[late])
        third = daily.backfill(eventually, daily.days[:3], "--reprocess-behavior completed")
        for day, one in third.items():
            if day == changed:
                assert (one["skipped"], one["computed_rows"], one["reused_rows"]) == (None, 1, ROWS - 1)
            elif day == late:
                assert (one["state"], one["skipped"], one["computed_rows"]) == ("success", None, ROWS)
            else:
                assert one["skipped"] == "up_to_date"
        kept = {day: mark for day, mark in daily.written().items() if day not in (changed, late)}
        assert kept == {day: mark for day, mark in outputs.items() if day != changed}
    for day in daily.days:
        (path,) = (daily.outputs / f"ds={day}").glob("*.parquet")
        table = pq.ParquetFile(path).read()
        assert table["text"].to_pylist() == texts[day]
        assert set(table["status"].to_pylist()) == {"success"}

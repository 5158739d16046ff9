"""Some days of the shipped daily DAG, by `airflow backfill create` and a real scheduler."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mullama.demo.airflow.client import AirflowClient
from airflow_mullama.demo.airflow.environment import airflow_environment
from airflow_mullama.demo.airflow.server import COMPONENTS, airflow_command, free_port
from airflow_mullama.demo.run import dags_directory
from airflow_mullama.demo.tickets import generate_tickets
from airflow_mullama.models.resolve import locate_model
from tests.integration.airflow_commands import run_airflow

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not locate_model("demo:ticket-tagger")[0].is_file(), reason="the ticket tagger's GGUF file is not there"
    ),
]

DAG_ID = "daily_backfill"
FIRST_DAY = "datetime(2026, 3, 2, tzinfo=timezone.utc)"
DAYS = ["2024-02-27", "2024-02-28", "2024-02-29", "2024-03-01"]
ROWS = 12


class DailyDag:
    """The shipped DAG file in an Airflow of its own, for some days of the past: its schedule ends with them, so
    that whatever day it is now, and whatever midnight passes, there is no run beside those of the backfill.

    The scheduler does not run while a backfill is made: on SQLite, two writers would lock each other out. (Airflow asks
    for another database in production.)
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self.lake = folder / "lake"
        self.outputs = self.lake / "tickets_tagged_daily"
        text = (dags_directory() / f"{DAG_ID}.py").read_text()
        assert text.count(FIRST_DAY) == 1
        first, last = (f"datetime.fromisoformat('{day}T00:00:00+00:00')" for day in (DAYS[0], DAYS[-1]))
        (folder / "dags").mkdir()
        (folder / "dags" / f"{DAG_ID}.py").write_text(text.replace(FIRST_DAY, f"{first}, end_date={last}"))
        self.home = home
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        self.client = AirflowClient(url, timeout=120.0)
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
        """Run `airflow` commands, one after the other."""
        done = run_airflow(*commands, environment=self._environment)
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
                airflow_command(*self._arguments[name]),
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

    def backfill(self, eventually: Callable[..., Any], options: str = "") -> dict[str, dict[str, Any]]:
        """Backfill all days and wait for the end; each day's state and manifest."""
        self.cli(
            "dags reserialize",
            f"backfill create --dag-id {DAG_ID} --from-date {DAYS[0]} --to-date {DAYS[-1]} --max-active-runs 2 "
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
        # The schedule added none for the same days.
        assert [run["run_type"] for run in runs()] == ["backfill"] * len(DAYS)
        found = {}
        for run in runs():
            (task,) = self.client.task_instances(DAG_ID, run["dag_run_id"])
            manifest = self.client.xcom(DAG_ID, run["dag_run_id"], task) or {}
            found[run["logical_date"][:10]] = {"state": task.state, **manifest}
        assert sorted(found) == DAYS
        return found


def test_days_are_written_once_and_a_second_backfill_computes_what_changed(
    tmp_path: Path, migrated_home: Callable[[Path], Path], eventually: Callable[..., Any]
) -> None:
    daily = DailyDag(tmp_path, migrated_home(tmp_path / "home"))
    tickets = [ticket.text for ticket in generate_tickets((len(DAYS) + 1) * ROWS, seed=7)]
    texts = {day: tickets[number * ROWS : (number + 1) * ROWS] for number, day in enumerate(DAYS)}
    changed, late = DAYS[1], DAYS[2]
    for day in DAYS:
        if day != late:
            daily.write(day, texts[day])
    with daily.component("api-server"):
        eventually(daily.answers, seconds=120)
        first = daily.backfill(eventually)
        outputs = daily.written()
        assert sorted(outputs) == sorted(set(DAYS) - {late})
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

        texts[changed][3] = tickets[-1]
        daily.write(changed, texts[changed])
        daily.write(late, texts[late])
        second = daily.backfill(eventually, "--reprocess-behavior completed")
        for day, one in second.items():
            if day == changed:
                assert (one["skipped"], one["computed_rows"], one["reused_rows"]) == (None, 1, ROWS - 1)
            elif day == late:
                assert (one["state"], one["skipped"], one["computed_rows"]) == ("success", None, ROWS)
            else:
                assert (one["skipped"], one["computed_rows"], one["rows"]) == ("up_to_date", 0, ROWS)
                assert one["seconds"] == dict.fromkeys(one["seconds"], 0.0)  # the model's load among them
        kept = {day: mark for day, mark in daily.written().items() if day not in (changed, late)}
        assert kept == {day: mark for day, mark in outputs.items() if day != changed}
    for day in DAYS:
        (path,) = (daily.outputs / f"ds={day}").glob("*.parquet")
        table = pq.ParquetFile(path).read()
        assert table["text"].to_pylist() == texts[day]
        assert set(table["status"].to_pylist()) == {"success"}

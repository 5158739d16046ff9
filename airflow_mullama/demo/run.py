"""The demo: real tickets in, tags and embeddings out, through a real Airflow on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from airflow_mullama.cache import cache_directory
from airflow_mullama.demo.airflow.client import AirflowClient, TaskInstance, run_url
from airflow_mullama.demo.airflow.server import DEFAULT_PORT, AirflowServer, AirflowServerError, free_port, is_free
from airflow_mullama.demo.airflow.stopping import Stopped, signals_stop
from airflow_mullama.demo.airflow.task_logs import PROGRESS_LINE, RunLogs
from airflow_mullama.demo.lake import DEFAULT_ROWS, LakeError, LakeSummary, write_lake
from airflow_mullama.demo.report import RunResult, show_categories, show_figures, show_neighbours, show_samples
from airflow_mullama.errors import MullamaError
from airflow_mullama.jobs.embed import EmbedJob
from airflow_mullama.models.names import MINILM
from airflow_mullama.run import prepare_model

PARALLEL_TASKS: Final = 2
RUN_SECONDS: Final = 1_800.0
_POLL_SECONDS = 0.5
# A task's log has a line at most every second; here fewer are shown, and always the last.
_SECONDS_BETWEEN_LINES = 4.0


@dataclass(frozen=True)
class DemoDag:
    """One of the example DAGs.

    Args:
        dag_id: the DAG, and the name of its file.
        task_id: its mapped task.
        task: what that does, ``generate`` or ``embed``.
        output: the output's directory in the lake.
    """

    dag_id: str
    task_id: str
    task: str
    output: str


TAG: Final = DemoDag("tag_tickets", "tag", "generate", "tickets_tagged")
EMBED: Final = DemoDag("embed_tickets", "embed", "embed", "tickets_embedded")


class DemoFailedError(Exception):
    """The demo did not do what it is meant to show; the message says what failed, and why."""


def run_demo(
    directory: Path | None = None, *, ui: bool = False, port: int | None = None, rows: int | None = None
) -> int:
    """Run the demo, or open its Airflow UI, and report on the terminal.

    Args:
        directory: where lake, outputs and Airflow's files lie; see :func:`default_directory`.
        ui: show what ran in Airflow's UI until interrupted, instead of running it.
        port: of the UI; 8080, or a free one if that is taken.
        rows: tickets in the lake.

    Returns:
        The exit status: 0, 1 for a failure, or 128 plus the number of the signal that ended it.
    """
    console = Console(highlight=False)
    demo = Demo(console, directory, rows=rows)
    try:
        with signals_stop():
            if ui:
                demo.serve_ui(port)
            else:
                demo.run(port)
    except Stopped as stopped:
        console.print("Stopped, with everything it started. What is finished is kept.")
        return 0 if ui else 128 + stopped.number
    except (AirflowServerError, DemoFailedError, LakeError, OSError, ValueError) as error:
        console.print(Text(f"The demo failed: {error}", "red"), soft_wrap=True)
        return 1
    return 0


def default_directory() -> Path:
    """``.demo`` in a checkout of this package, else a directory in the user's cache."""
    return Path(".demo").absolute() if _in_checkout() else cache_directory() / "demo"


def dags_directory() -> Path:
    """Where the example DAGs lie: beside this module in an installed package, at the top in a checkout."""
    installed = Path(__file__).with_name("dags")
    return installed if installed.is_dir() else Path(__file__).parents[2] / "dags"


@dataclass
class _Followed:
    """A run that is being waited for."""

    dag: DemoDag
    run_id: str
    logs: RunLogs
    started: float
    names: list[str] = field(default_factory=list)
    shown: dict[int, float] = field(default_factory=dict)
    state: str = "queued"
    ended: float = 0.0

    @property
    def is_over(self) -> bool:
        return self.state in ("success", "failed")


class Demo:
    """One run of the demo, or its UI.

    Args:
        console: the terminal.
        directory: where lake, outputs and Airflow's files lie; the default one if ``None``.
        rows: tickets in the lake.
    """

    def __init__(self, console: Console, directory: Path | None, *, rows: int | None) -> None:
        self._console = console
        self._named_directory = directory
        self._directory = (directory or default_directory()).absolute()
        self._rows = rows
        self._lake = self._directory / "lake"
        self._home = self._directory / "airflow"

    def run(self, port: int | None = None) -> None:
        """Write the lake, run the DAGs, follow them, show what came out.

        Raises:
            DemoFailedError: a run failed.
            AirflowServerError: Airflow did not start.
            LakeError: the lake cannot be written.
        """
        console, started = self._console, time.monotonic()
        self._show_lake(write_lake(self._lake / "tickets", rows=self._rows or DEFAULT_ROWS))
        dags = self._dags()
        console.print(f"Starting Airflow, on this machine alone: its files are in {self._home}", soft_wrap=True)
        with self._server(port) as server:
            server.wait_for_dags([dag.dag_id for dag in dags])
            console.print(f"Airflow is up after {time.monotonic() - started:.0f} s at {server.url}\n", soft_wrap=True)
            followed = self._trigger(server, dags)
            self._follow(server, followed)
            results = [self._result(server.client, run) for run in followed]
        console.print()
        self._report(results)
        command = ui_command(self._named_directory)
        console.print(
            f"\nDone in {time.monotonic() - started:.0f} s. See these runs in Airflow's UI:\n\n    {command}",
            soft_wrap=True,
        )

    def serve_ui(self, port: int | None = None) -> None:
        """Serve Airflow's UI until interrupted; without an earlier run, start one.

        Raises:
            AirflowServerError: Airflow did not start, or ended.
        """
        console = self._console
        write_lake(self._lake / "tickets", rows=self._rows or DEFAULT_ROWS)
        dags = self._dags()
        wanted = port or DEFAULT_PORT
        if not is_free(wanted):
            if port is not None:
                raise AirflowServerError(f"Port {port} is taken; give another one with --port, or leave it out.")
            port = free_port()
            console.print(f"Port {wanted} is taken, so the UI will be at port {port}.")
        console.print("Starting Airflow: this takes some seconds.")
        with self._server(port or wanted) as server:
            server.wait_for_dags([dag.dag_id for dag in dags])
            if any(server.client.latest_run(dag.dag_id) is None for dag in dags):
                console.print("Nothing has run here yet: starting the demo's runs.")
                self._trigger(server, dags)
            console.print(
                f"\nAirflow is at {server.url}, reachable from this machine alone and without a login: "
                "whoever else has an account here can use it, and run code as you. The demo's runs:\n",
                soft_wrap=True,
            )
            for dag in dags:
                run_id = server.client.latest_run(dag.dag_id)
                if run_id is not None:
                    console.print(f"    {run_url(server.url, dag.dag_id, run_id)}", soft_wrap=True)
            console.print("\nCtrl-C stops it.")
            while True:
                server.check()
                time.sleep(_POLL_SECONDS)

    def _server(self, port: int | None) -> AirflowServer:
        # Tasks share the cores: threads of llama.cpp that wait for one another spin, and cost each other dearly.
        cores = os.cpu_count() or 1
        options = {"n_threads": max(1, min(4, (cores - 1) // PARALLEL_TASKS))}
        connection = {"conn_type": "mullama", "extra": {"engine_options": options}}
        return AirflowServer(
            self._home,
            dags=dags_directory(),
            environment={
                "AIRFLOW_MULLAMA_LAKE": str(self._lake),
                "AIRFLOW_CONN_MULLAMA_DEFAULT": json.dumps(connection),
            },
            port=port,
            parallelism=PARALLEL_TASKS,
            announce=lambda message: self._console.print(message),
        )

    def _dags(self) -> list[DemoDag]:
        """The DAGs that can run here."""
        try:
            # As the tasks will, with the engine that this environment has for it: those that start together would each
            # convert the model, or each miss what is not installed.
            prepare_model(EmbedJob(model=MINILM, text_column="text"))
        except MullamaError as error:
            self._console.print(Text(f"Tickets are tagged but not embedded: {str(error).rstrip('.')}.", "yellow"))
            return [TAG]
        return [TAG, EMBED]

    def _show_lake(self, lake: LakeSummary) -> None:
        verb = "Wrote" if lake.written else "Found"
        self._console.print(
            f"{verb} {lake.rows:,} support tickets of {lake.partitions} days ({lake.files} Parquet files, "
            f"{lake.bytes / 1e6:.1f} MB) in {lake.directory}\nAmong them {lake.nulls} nulls, {lake.empty} empty "
            f"strings, {lake.repeated} duplicate rows, {lake.other_scripts} in other scripts, {lake.odd} with markup, "
            f"control tokens or only emoji, and one text of {lake.longest_text_bytes // 1024} KB.",
            soft_wrap=True,
        )

    def _trigger(self, server: AirflowServer, dags: Sequence[DemoDag]) -> list[_Followed]:
        run_id = time.strftime("demo_%Y-%m-%dT%H-%M-%S")
        followed = []
        for dag in dags:
            server.client.trigger(dag.dag_id, run_id)
            followed.append(_Followed(dag, run_id, RunLogs(self._home, dag.dag_id, run_id), time.monotonic()))
        return followed

    def _follow(self, server: AirflowServer, runs: Sequence[_Followed]) -> None:
        """Show progress until every run is over."""
        end = time.monotonic() + RUN_SECONDS
        while not all(run.is_over for run in runs):
            server.check()
            if time.monotonic() > end:
                raise DemoFailedError(f"The runs are not over after {RUN_SECONDS:.0f} s; see {self._home / 'logs'}.")
            time.sleep(_POLL_SECONDS)
            for run in runs:
                # The server is busy with tasks on few cores: a late answer is no reason to give up.
                with contextlib.suppress(OSError):
                    self._follow_once(server.client, run)

    def _follow_once(self, client: AirflowClient, run: _Followed) -> None:
        if run.is_over:
            return
        if not run.names:
            run.names = _partition_names(client, run)
        state = client.run_state(run.dag.dag_id, run.run_id)
        for line in run.logs.new_lines():
            if line.progress is not None and line.map_index >= 0:
                self._show_progress(run, line.map_index, line.progress)
        if state in ("success", "failed"):
            run.state, run.ended = state, time.monotonic()

    def _show_progress(self, run: _Followed, map_index: int, progress: str) -> None:
        if numbers := PROGRESS_LINE.match(progress):
            now = time.monotonic()
            is_last = numbers[1] == numbers[2]
            if not is_last and now - run.shown.get(map_index, 0.0) < _SECONDS_BETWEEN_LINES:
                return
            run.shown[map_index] = now
        name = run.names[map_index] if map_index < len(run.names) else str(map_index)
        self._console.print(Text(f"{run.dag.task_id:6}{name:15}{progress}"), soft_wrap=True)

    def _result(self, client: AirflowClient, run: _Followed) -> RunResult:
        instances = client.task_instances(run.dag.dag_id, run.run_id)
        if run.state != "success":
            raise DemoFailedError(_failure(run, instances))
        partitions = [instance for instance in instances if instance.task_id == run.dag.task_id]
        manifests: list[dict[str, Any]] = [
            _json(client.xcom(run.dag.dag_id, run.run_id, instance)) for instance in partitions
        ]
        return RunResult(run.dag.dag_id, run.dag.task, manifests, run.ended - run.started)

    def _report(self, results: Sequence[RunResult]) -> None:
        console = self._console
        by_task = {result.task: result for result in results}
        console.print(Text("What the model made of some tickets (category · sentiment · urgency)", "bold"))
        show_samples(console, by_task["generate"])
        show_categories(console, by_task["generate"])
        if "embed" in by_task:
            console.print(Text("Tickets that mean nearly the same, by their embeddings", "bold"))
            show_neighbours(console, by_task["embed"])
        console.print(Text("Figures", "bold"))
        show_figures(console, results)
        outputs = [self._lake / dag.output for dag in (TAG, EMBED) if dag.task in by_task]
        console.print("\nThe outputs, Parquet like the input, are in\n")
        for output in outputs:
            console.print(f"    {output}", soft_wrap=True)


def ui_command(directory: Path | None) -> str:
    """What opens the UI on a demo's runs; ``directory`` as the user named it, if at all."""
    arguments = f"--directory {shlex.quote(str(directory.absolute()))}" if directory else ""
    if _in_checkout():
        return f'make ui ARGS="{arguments}"' if arguments else "make ui"
    return f"airflow-mullama demo --ui {arguments}".rstrip()


def _in_checkout() -> bool:
    return all(Path(name).exists() for name in ("pyproject.toml", "Makefile", "dags", "airflow_mullama"))


def _partition_names(client: AirflowClient, run: _Followed) -> list[str]:
    """The partitions in the order of the mapped tasks; empty until they are listed."""
    listing = TaskInstance("partitions", -1, "partitions", None, 0, "")
    arguments = _json(client.xcom(run.dag.dag_id, run.run_id, listing)) or []
    return [os.path.basename(str(one["input_path"])) for one in arguments]


def _json(value: Any) -> Any:
    """An XCom's value: Airflow's API gives it as it is, or as the JSON text that is stored."""
    return json.loads(value) if isinstance(value, str) else value


def _failure(run: _Followed, instances: Sequence[TaskInstance]) -> str:
    """What failed and why; tasks that failed with the same words are reported once."""
    by_sentence: dict[str, list[TaskInstance]] = {}
    for instance in instances:
        if instance.state == "failed":
            sentence = run.logs.last_error(instance) or "its log does not say why."
            by_sentence.setdefault(sentence, []).append(instance)
    lines = [f"the run of {run.dag.dag_id} failed."]
    for sentence, failed in by_sentence.items():
        first = failed[0]
        name = first.name if first.map_index < 0 else f"{first.task_id} {first.name}"
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        lines.append(f"{name}{others}: {sentence} (log: {run.logs.path(first)})")
    return "\n".join(lines)

"""The parent's side of the pipe: starts the worker, talks to it from threads, sees to it that none is left behind."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import pyarrow as pa

from airflow_mullama import errors
from airflow_mullama.child_process import module_command, needed_environment
from airflow_mullama.engines.base import EngineInfo, EngineSettings
from airflow_mullama.engines.registry import load_spec
from airflow_mullama.gpus.lease import inherited_descriptors
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.worker.load_watch import LoadWatch
from airflow_mullama.worker.protocol import (
    PICTURES,
    REQUEST_SCHEMA,
    TURNS,
    Frame,
    read_batch,
    read_frame,
    write_batch,
    write_frame,
)
from airflow_mullama.worker.scratch import ScratchFolder

log = logging.getLogger(__name__)
native_log = logging.getLogger("airflow_mullama.engine")

STDERR_LINES_KEPT = 40
EXIT_SECONDS = 2.0


@dataclass(frozen=True)
class Started:
    """The engine is loaded."""

    worker: Worker
    info: EngineInfo


@dataclass(frozen=True)
class Refused:
    """The engine did not start and said why."""

    error: errors.MullamaError


@dataclass(frozen=True)
class Outcomes:
    """Rows that came back; the batch has :func:`airflow_mullama.worker.protocol.outcome_schema`."""

    batch: pa.RecordBatch


@dataclass(frozen=True)
class ShownPrompt:
    """What the model gets for a row.

    Args:
        row: which.
        prompt: with the tokens that are not text, written out.
        tokens: how many it has; 0 where the engine does not tell.
    """

    row: int
    prompt: str
    tokens: int


@dataclass(frozen=True)
class Stuck:
    """Rows past their timeout that the engine would not end; the worker left because of them.

    Args:
        rows: each in a call of its own.
        shared: rows that were asked for together: at least one of them is to blame.
    """

    rows: tuple[int, ...]
    shared: tuple[int, ...] = ()


@dataclass(frozen=True)
class Exited:
    """The worker is gone; always its last event."""

    worker: Worker
    how: str
    stderr: tuple[str, ...]


Event = Any  # one of the above, or what a run puts into the same queue for itself


def start_process(
    arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start the program of a worker, with pipes for its standard streams.

    Args:
        arguments: its own.
        environment: all that it gets.
        descriptors: what it inherits besides.
    """
    return subprocess.Popen(
        module_command("airflow_mullama.worker", *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        pass_fds=descriptors,
    )


class Worker:
    """A worker process. Every event reaches ``deliver``, which is called from the worker's threads.

    Args:
        engine: the engine's name.
        settings: what it is started with.
        deliver: takes :class:`Started`, :class:`Refused`, :class:`Outcomes`, :class:`Stuck` and :class:`Exited`.
        environment: variables that the process gets over those of this one.

    Create it on a thread that outlives it: Linux ends the process together with the thread that started it.
    """

    def __init__(
        self,
        engine: str,
        settings: EngineSettings,
        deliver: Callable[[Event], None],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        spec = load_spec(engine)
        self._scratch = ScratchFolder() if spec.needs_scratch else None
        scratch = self._scratch.path if self._scratch else None
        self._settings = settings = replace(settings, scratch=scratch)
        self._refused: errors.MullamaError | None = None
        self._broken: str | None = None
        self._lost: str | None = None
        self._running: tuple[int, ...] = ()
        self._deliver = deliver
        self._outbox: queue.SimpleQueue[tuple[Frame, Any] | None] = queue.SimpleQueue()
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._process = start_process(
            [scratch] if scratch else [],
            {**needed_environment(spec.variables(settings.options)), **(environment or {})},
            inherited_descriptors(environment or {}),
        )
        self._load_watch = LoadWatch(
            self.pid, settings.load_timeout, lambda: spec.load_memory(settings), self._give_up_loading
        )
        configuration = json.dumps({"engine": engine, "settings": settings.to_json()}).encode()
        self._outbox.put((Frame.CONFIGURE, configuration))
        self._stderr_thread = _thread(self._read_stderr_forever)
        self._threads = [self._stderr_thread, _thread(self._write_forever), _thread(self._read_forever)]
        for thread in self._threads:  # in this order: the last one joins the first
            thread.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def send(self, batch: pa.RecordBatch) -> None:
        """Queue a batch of :data:`airflow_mullama.worker.protocol.REQUEST_SCHEMA`. Never blocks."""
        self._outbox.put((Frame.REQUESTS, batch))

    def stop(self) -> None:
        """End the child, at once and for good; its memory, on the GPU too, is free when this returns.

        Nothing is waited for in the engine: what is durable is in the stage, and what is not is asked again.
        """
        self._outbox.put(None)
        self._load_watch.over()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(EXIT_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        if self._scratch is not None:
            self._scratch.remove()

    def _give_up_loading(self, reason: str) -> None:
        self._refused = errors.ModelLoadError(f"Loading {self._settings.model!r} was given up: {reason}.")
        self._process.kill()

    def _write_forever(self) -> None:
        stream = _stream(self._process.stdin)
        while (item := self._outbox.get()) is not None:
            kind, value = item
            del item  # a heavy batch is not held until the next one
            try:
                if isinstance(value, pa.RecordBatch):
                    write_batch(stream, kind, value)
                else:
                    write_frame(stream, kind, value)
                    stream.flush()
            except (BrokenPipeError, ValueError, OSError):
                return  # the reading thread reports how the worker ended
            del value

    def _read_forever(self) -> None:
        try:
            self._read_frames(_stream(self._process.stdout))
        except Exception as error:
            log.debug("the worker's pipe broke", exc_info=True)
            self._broken = f"sent something that cannot be read ({type(error).__name__}: {error})"
            self._process.kill()
        finally:
            self._tell_end()

    def _read_frames(self, stream: BinaryIO) -> None:
        while (frame := read_frame(stream)) is not None:
            kind, payload = frame
            if kind is Frame.OUTCOMES:
                self._deliver(Outcomes(read_batch(payload)))
            else:
                self._control(kind, json.loads(payload))

    def _tell_end(self) -> None:
        self._process.wait()
        self._load_watch.over()
        self._stderr_thread.join(EXIT_SECONDS)
        if self._refused is not None:
            self._deliver(Refused(_with_native_reason(self._refused, self._stderr)))
        if self._running and self._process.returncode == -signal.SIGALRM:
            alone = len(self._running) == 1
            self._deliver(Stuck(self._running) if alone else Stuck((), self._running))
        how = self._broken or self._lost or describe_exit(self._process.returncode)
        self._deliver(Exited(self, how, tuple(self._stderr)))

    def _control(self, kind: Frame, value: Any) -> None:
        if kind is Frame.READY:
            self._load_watch.over()
            info = EngineInfo(**{**value, "devices": tuple(value["devices"]), "notes": tuple(value["notes"])})
            self._deliver(Started(self, info))
        elif kind is Frame.FAILED:
            error_class = getattr(errors, value["error"], errors.ModelLoadError)
            self._refused = error_class(value["message"])  # delivered with the last of the engine's own log
        elif kind is Frame.STUCK:
            self._deliver(Stuck(tuple(value["rows"]), tuple(value["shared"])))
        elif kind is Frame.LOST:
            self._lost = value["how"]
        elif kind is Frame.PROMPTS:
            for shown in value:
                self._deliver(ShownPrompt(shown["row"], shown["prompt"], shown["tokens"]))
        elif kind is Frame.RUNNING:
            self._running = tuple(value["rows"])
        elif kind is Frame.LOG:
            logging.getLogger(value["name"]).log(value["level"], "%s", value["message"])

    def _read_stderr_forever(self) -> None:
        # llama.cpp talks a lot; it is there at DEBUG, and its last lines are quoted if the worker dies.
        stream = _stream(self._process.stderr)
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                text = printable(line.decode("utf-8", "replace").rstrip())
                if text:
                    self._stderr.append(text)
                    native_log.debug("%s", text)


def _thread(target: Callable[[], None]) -> threading.Thread:
    return threading.Thread(target=target, daemon=True, name=f"mullama-{target.__name__.strip('_')}")


def _stream(stream: Any) -> BinaryIO:
    assert stream is not None
    return stream  # type: ignore[no-any-return]


def _with_native_reason(error: errors.MullamaError, stderr: Iterable[str]) -> errors.MullamaError:
    """Add what llama.cpp itself logged as errors: the only place where it says why a model does not load."""
    reasons = [line.split(" E ", 1)[1].strip() for line in stderr if " E " in line]
    if isinstance(error, errors.ModelLoadError) and reasons:
        return type(error)(f"{error} llama.cpp says: {'; '.join(reasons[:3])}.")
    return error


def describe_exit(returncode: int) -> str:
    """How a process ended, in words: ``was killed by SIGKILL (often: out of memory)``."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = {"SIGKILL": " (often: the machine ran out of memory)", "SIGABRT": " (the engine aborted)"}.get(name, "")
    return f"was killed by {name}{hint}"


def request_batch(
    rows: pa.Array,
    attempts: pa.Array,
    texts: pa.Array,
    problems: pa.Array | None = None,
    row_spans: pa.Array | None = None,
    turns: pa.Array | None = None,
    pictures: pa.Array | None = None,
) -> pa.RecordBatch:
    """A batch to :meth:`Worker.send`.

    Args:
        rows, attempts, texts: of :class:`airflow_mullama.engines.base.Request`.
        problems: of those that are asked again for an answer that was wrong; none by default.
        row_spans: which parts of the texts are the rows'; all by default.
        turns: the messages of the texts; by default each is a single one of the user.
        pictures: before the texts of the last messages; none by default.
    """
    problems = pa.nulls(len(rows), pa.string()) if problems is None else problems
    row_spans = pa.nulls(len(rows), pa.list_(pa.int32())) if row_spans is None else row_spans
    turns = pa.nulls(len(rows), TURNS) if turns is None else turns
    pictures = pa.nulls(len(rows), PICTURES) if pictures is None else pictures
    return pa.RecordBatch.from_arrays(
        [rows, attempts, texts, problems, row_spans, turns, pictures], schema=REQUEST_SCHEMA
    )

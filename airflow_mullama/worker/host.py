"""The worker's side of the pipe: threads that feed an engine and send back what it says.

The main thread only reads the pipe, so that the process ends at once when the pipe closes, whatever the engine is
doing. It always leaves by ``os._exit``: llama.cpp aborts or hangs when an interpreter is torn down around requests
in flight.

An engine that holds the interpreter lock stops all these threads while it computes. There the kernel does what threads
cannot: it ends the process when the parent is gone, and when a row takes too long.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from airflow_mullama.engines.base import Engine, EngineSettings, Outcome, Request
from airflow_mullama.engines.registry import EngineSpec, load_spec
from airflow_mullama.errors import MullamaError
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.worker.affinity import best_fit
from airflow_mullama.worker.outcomes import OutcomeBatches
from airflow_mullama.worker.protocol import (
    REQUEST_SCHEMA,
    Frame,
    read_batch,
    read_frame,
    write_batch,
    write_json,
)

# How long outcomes are gathered before they are sent while the engine has more to do: far below what a person notices,
# far above the 2 ms of CPU that a frame costs on both sides of the pipe, however few rows it has.
GATHER_SECONDS = 0.05
# What a row may take beyond its timeout before the engine counts as hung; a sound engine ends it by itself.
STUCK_GRACE_SECONDS = 2.0
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class PipeLogHandler(logging.Handler):
    """Sends the worker's log records to the parent, where they join the task's log."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self._host = host

    def emit(self, record: logging.LogRecord) -> None:
        self._host.send_json(Frame.LOG, {"level": record.levelno, "name": record.name, "message": self.format(record)})


@dataclass(frozen=True)
class StuckRows:
    """Rows past their timeout, each in a call of its own or in a shared one: the worker leaves because of them."""

    alone: list[int]
    shared: list[int]


class Host:
    """One engine, ``n_parallel`` threads that run it, one that prepares and one that sends."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._write_lock = threading.Lock()
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._prepared: deque[Request] = deque()
        self._prepared_changed = threading.Condition()
        self._passed_over = 0
        self._finished: queue.SimpleQueue[list[tuple[Request, Outcome]] | StuckRows] = queue.SimpleQueue()
        self._running: dict[int, tuple[float, Sequence[Request]]] = {}

    def send_json(self, kind: Frame, value: object) -> None:
        """Send a control frame."""
        with self._write_lock:
            write_json(self._outgoing, kind, value)

    def serve(self) -> None:
        """Start the engine that the first frame names, then work until the pipe closes."""
        first = read_frame(self._incoming)
        if first is None or first[0] is not Frame.CONFIGURE:
            return
        configuration = json.loads(first[1])
        settings = EngineSettings(**configuration["settings"])
        logging.basicConfig(level=logging.INFO, handlers=[PipeLogHandler(self)], format="%(message)s")
        spec = load_spec(configuration["engine"])
        if spec.holds_gil:
            _end_with_parent()
            if settings.scratch is not None:  # who is killed cannot clean up: nothing must be there
                shutil.rmtree(settings.scratch, ignore_errors=True)
                settings = replace(settings, scratch=None)
        # A load may hold the interpreter for seconds; the pipe must be watched meanwhile, so it runs on a thread.
        _start_thread(self._start, spec, settings)
        while (frame := read_frame(self._incoming)) is not None:
            if frame[0] is Frame.REQUESTS:
                self._arrived.put(frame[1])

    def _start(self, spec: EngineSpec, settings: EngineSettings) -> None:
        try:
            engine = spec.start(settings)
        except MullamaError as error:
            self.send_json(Frame.FAILED, {"error": type(error).__name__, "message": str(error)})
            os._exit(1)
        except Exception as error:
            logging.getLogger(__name__).exception("the engine did not start")
            message = f"The engine {spec.name!r} did not start: {type(error).__name__}: {error}"
            self.send_json(Frame.FAILED, {"error": "ModelLoadError", "message": message})
            os._exit(1)
        batches = OutcomeBatches(settings, engine.info.dimensions)
        _start_thread(self._prepare_forever, engine)
        _start_thread(self._send_forever, batches, engine.info.window)
        if spec.holds_gil:
            _start_thread(self._run_alone_forever, engine, batches, settings.row_timeout)
        else:
            for number in range(engine.info.calls):
                _start_thread(self._run_forever, engine, number)
            if settings.row_timeout is not None:
                _start_thread(self._watch_forever, settings.row_timeout)
        self.send_json(Frame.READY, vars(engine.info))

    def _prepare_forever(self, engine: Engine) -> None:
        while True:
            batch = read_batch(self._arrived.get(), REQUEST_SCHEMA)
            requests = [
                Request(row, attempt, text, problem=problem)
                for row, attempt, text, problem in zip(
                    batch.column("row").to_pylist(),
                    batch.column("attempt").to_pylist(),
                    batch.column("text").to_pylist(),
                    batch.column("problem").to_pylist(),
                    strict=True,
                )
            ]
            try:
                prepared = engine.prepare(requests)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is these rows' outcome
                failure = _engine_error(error)
                prepared = [failure] * len(requests)
            ready = [result for result in prepared if isinstance(result, Request)]
            if len(ready) < len(requests):
                pairs = zip(requests, prepared, strict=True)
                self._finished.put([(request, result) for request, result in pairs if isinstance(result, RowError)])
            with self._prepared_changed:
                self._prepared.extend(ready)
                self._prepared_changed.notify(len(ready))

    def _run_forever(self, engine: Engine, number: int) -> None:
        last: list[int] = []
        while True:
            requests = self._next_requests(engine, last)
            if engine.rows_per_call == 1:
                last = requests[0].tokens or []
            self._running[number] = (time.monotonic(), requests)
            outcomes = _computed(engine, requests)
            del self._running[number]
            self._finished.put(list(zip(requests, outcomes, strict=True)))

    def _run_alone_forever(self, engine: Engine, batches: OutcomeBatches, row_timeout: float | None) -> None:
        """For an engine that holds the interpreter: between two of its calls no other thread can be relied on."""
        while True:
            requests = self._next_requests(engine, last=[])
            if row_timeout is not None:
                self.send_json(Frame.RUNNING, {"rows": [request.row for request in requests]})
                signal.setitimer(signal.ITIMER_REAL, row_timeout * len(requests) + STUCK_GRACE_SECONDS)
            outcomes = _computed(engine, requests)
            signal.setitimer(signal.ITIMER_REAL, 0)
            batch = batches.build(list(zip(requests, outcomes, strict=True)))
            with self._write_lock:
                write_batch(self._outgoing, Frame.OUTCOMES, batch)

    def _next_requests(self, engine: Engine, last: list[int]) -> list[Request]:
        with self._prepared_changed:
            while not self._prepared:
                self._prepared_changed.wait()
            return self._take(engine, last)

    def _take(self, engine: Engine, last: list[int]) -> list[Request]:
        """The next requests of a thread; the lock is held."""
        if engine.rows_per_call == 1:
            # The oldest must not wait without end for those that fit better.
            fits = best_fit(self._prepared, last) if last and self._passed_over < 4 * engine.info.calls else 0
            self._passed_over = self._passed_over + 1 if fits else 0
            self._prepared.rotate(-fits)
            request = self._prepared.popleft()
            self._prepared.rotate(fits)
            return [request]
        # A fair share: one thread must not take the rows that others wait for.
        share = -(-len(self._prepared) // engine.info.calls)
        count = min(engine.rows_per_call, max(1, share))
        budget = engine.info.tokens_per_call
        if budget is not None:
            ends = itertools.accumulate(
                len(request.tokens or ()) for request in itertools.islice(self._prepared, count)
            )
            count = max(1, sum(end <= budget for end in ends))
        return [self._prepared.popleft() for _ in range(count)]

    def _send_forever(self, batches: OutcomeBatches, window: int) -> None:
        # The parent refills the window as outcomes arrive: most of it must never wait here for the last few.
        enough = max(1, window // 4)
        stuck: StuckRows | None = None
        while stuck is None:
            finished: list[tuple[Request, Outcome]] = []
            until: float | None = None
            while stuck is None and len(finished) < enough and not (finished and self._is_idle):
                try:
                    item = self._finished.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                until = until or time.monotonic() + GATHER_SECONDS
                if isinstance(item, StuckRows):
                    stuck = item
                else:
                    finished.extend(item)
            if finished:
                batch = batches.build(finished)
                with self._write_lock:
                    write_batch(self._outgoing, Frame.OUTCOMES, batch)
        self.send_json(Frame.STUCK, {"rows": stuck.alone, "shared": stuck.shared})
        os._exit(1)

    @property
    def _is_idle(self) -> bool:
        """Whether the parent waits for what is finished: nothing else will be, until it sends more."""
        return not self._running and not self._prepared and self._finished.empty() and self._arrived.empty()

    def _watch_forever(self, row_timeout: float) -> None:
        while True:
            time.sleep(min(1.0, row_timeout / 4))
            now = time.monotonic()
            overdue = [
                requests
                for since, requests in list(self._running.values())
                if now - since > row_timeout * len(requests) + STUCK_GRACE_SECONDS
            ]
            if overdue:
                alone = [requests[0].row for requests in overdue if len(requests) == 1]
                shared = [request.row for requests in overdue if len(requests) > 1 for request in requests]
                self._finished.put(StuckRows(alone, shared))  # behind what was finished before
                return


def _start_thread(target: Callable[..., None], *arguments: object) -> None:
    """Start a thread without which the worker is of no use: if it fails, the process ends, and the parent is told."""

    def run() -> None:
        try:
            target(*arguments)
        except BrokenPipeError:
            os._exit(0)  # the parent is gone
        except BaseException:  # noqa: BLE001 - a worker that is only half alive would be waited for without end
            traceback.print_exc()
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()


def _computed(engine: Engine, requests: Sequence[Request]) -> list[Outcome]:
    try:
        return engine.run(requests)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is these rows' outcome
        return [_engine_error(error)] * len(requests)


def _end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends, which is the one that runs the job.

    Only Linux can. Elsewhere this process ends when the row in work is done: then the main thread sees the closed pipe.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _engine_error(error: Exception) -> RowError:
    return RowError(ErrorType.ENGINE_ERROR, f"{type(error).__name__}: {error}")


def main() -> None:
    """Take standard input and output for the pipe; what native code prints goes to standard error."""
    # Stopping a task signals its whole process group. The parent decides when this process ends: first it makes durable
    # what this one has finished, then the pipe closes.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process: what a row's time limit relies on
    incoming = os.fdopen(os.dup(0), "rb", buffering=1 << 20)
    outgoing = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.dup2(2, 1)
    try:
        Host(incoming, outgoing).serve()
        for scratch in sys.argv[1:]:  # the parent removes it too, unless it was killed
            shutil.rmtree(scratch, ignore_errors=True)
    except BrokenPipeError:
        pass
    except BaseException:  # noqa: BLE001 - the interpreter must not be torn down around the engine
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)

"""The worker's side of the pipe: threads that feed an engine and send back what it says.

The main thread only reads the pipe, so that the process ends at once when the pipe closes, whatever the engine is
doing. It always leaves by ``os._exit``: llama.cpp aborts or hangs when an interpreter is torn down around requests
in flight.

Native code that holds the interpreter lock stops all these threads: any engine's while it loads, some engines' while
they compute. There the kernel does what threads cannot: it ends the process when the parent is gone, and when a row
takes too long; and the parent watches how long it loads.
"""

from __future__ import annotations

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_mullama.byte_bounds import FRAME_BYTES
from airflow_mullama.child_process import end_with_parent
from airflow_mullama.engines.base import (
    Engine,
    EngineLostError,
    EngineSettings,
    Outcome,
    Request,
)
from airflow_mullama.engines.embedding_trial import start_embedding_engine
from airflow_mullama.engines.pictures import Picture
from airflow_mullama.engines.reasoning import Reasoning
from airflow_mullama.engines.registry import EngineSpec, load_spec
from airflow_mullama.engines.several_answers import SeveralAnswers
from airflow_mullama.errors import MullamaError
from airflow_mullama.garbage import seldom_collected
from airflow_mullama.redaction.foreign_text import printable
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.worker.outcomes import OutcomeBatches, answer_bytes, in_frames
from airflow_mullama.worker.prepared_rows import PreparedRows
from airflow_mullama.worker.protocol import Frame, read_batch, read_frame, write_batch, write_json
from airflow_mullama.worker.thread_stacks import deep_stacks
from airflow_mullama.worker.without_pandas import keep_pandas_out

if TYPE_CHECKING:
    from airflow_mullama.worker.documents import Documents

# How long outcomes are gathered before they are sent while the engine has more to do: far below what a person notices,
# far above the 2 ms of CPU that a frame costs on both sides of the pipe, however few rows it has.
GATHER_SECONDS = 0.05
# Chunks of documents that are prepared for each of the engine's calls, before more are cut.
CHUNKS_AHEAD = 64
# What a row may take beyond its timeout before the engine counts as hung; a sound engine ends it by itself.
STUCK_GRACE_SECONDS = 2.0
# Without a row_timeout, a call that lasts longer than this and a second for each token of an answer will never end: no
# engine that anybody waits for is slower.
HUNG_SECONDS = 3600.0
# Among the calls that are watched, that which prepares rows.
PREPARING = -1


class PrintableFormatter(logging.Formatter):
    """One line for each message, whatever foreign text is in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        return "\n".join(map(printable, super().formatException(ei).splitlines()))


class PipeLogHandler(logging.Handler):
    """Sends the worker's log records to the parent, where they join the task's log."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.setFormatter(PrintableFormatter("%(message)s"))
        self._host = host

    def emit(self, record: logging.LogRecord) -> None:
        self._host.send_json(Frame.LOG, {"level": record.levelno, "name": record.name, "message": self.format(record)})


@dataclass(frozen=True)
class StuckRows:
    """Rows past their timeout, each in a call of its own or in a shared one: the worker leaves because of them."""

    alone: list[int]
    shared: list[int]


@dataclass(frozen=True)
class Lost:
    """The engine cannot answer any more: the worker leaves because of that."""

    how: str


class Host:
    """One engine, ``n_parallel`` threads that run it, one that prepares and one that sends."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._write_lock = threading.Lock()
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._prepared = PreparedRows()
        self._prepared_changed = threading.Condition()
        self._finished: queue.SimpleQueue[list[tuple[Request, Outcome]] | StuckRows | Lost] = queue.SimpleQueue()
        self._running: dict[int, tuple[float, Sequence[Request]]] = {}
        self._documents: Documents | None = None
        self._shows_prompts = False

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
        logging.basicConfig(level=logging.INFO, handlers=[PipeLogHandler(self)])
        spec = load_spec(configuration["engine"])
        # A load may hold the interpreter for seconds; the pipe must be watched meanwhile, so it runs on a thread.
        _start_thread(self._start, spec, settings)
        while (frame := read_frame(self._incoming)) is not None:
            if frame[0] is Frame.REQUESTS:
                self._arrived.put(frame[1])

    def _start(self, spec: EngineSpec, settings: EngineSettings) -> None:
        try:
            with deep_stacks():  # llama.cpp's server tokenizes on threads that it starts now
                embeds = settings.task == "embed"
                engine = start_embedding_engine(spec.start, settings) if embeds else spec.start(settings)
                if settings.settings.get("n"):
                    engine = SeveralAnswers(engine, settings)
            self._shows_prompts = settings.show_prompts
            if settings.settings.get("chunking"):
                from airflow_mullama.worker.documents import Documents  # it needs a package that others do not

                self._documents = Documents(engine, settings.settings)
        except MullamaError as error:
            self.send_json(Frame.FAILED, {"error": type(error).__name__, "message": str(error)})
            os._exit(1)
        except Exception as error:
            logging.getLogger(__name__).exception("the engine did not start")
            message = f"The engine {spec.name!r} did not start: {type(error).__name__}: {error}"
            self.send_json(Frame.FAILED, {"error": "ModelLoadError", "message": message})
            os._exit(1)
        batches = OutcomeBatches(settings, engine.info.dimensions)
        with deep_stacks():
            _start_thread(self._prepare_forever, engine)
        _start_thread(self._send_forever, batches, engine.info.window)
        if spec.holds_gil:
            _start_thread(self._run_alone_forever, engine, batches, partial(call_seconds, settings))
        else:
            for number in range(engine.info.calls):
                _start_thread(self._run_forever, engine, number)
            if settings.row_timeout is not None or not spec.ends_calls:
                _start_thread(self._watch_forever, partial(call_seconds, settings))
        self.send_json(Frame.READY, vars(engine.info))

    def _prepare_forever(self, engine: Engine) -> None:
        while True:
            batch = read_batch(self._arrived.get())
            requests = [
                Request(
                    row,
                    attempt,
                    text,
                    problem=problem,
                    row_spans=row_spans,
                    turns=_turns(turns),
                    pictures=[Picture(**sent) for sent in pictures or ()],
                )
                for row, attempt, text, problem, row_spans, turns, pictures in zip(
                    batch.column("row").to_pylist(),
                    batch.column("attempt").to_pylist(),
                    batch.column("text").to_pylist(),
                    batch.column("problem").to_pylist(),
                    batch.column("row_spans").to_pylist(),
                    batch.column("turns").to_pylist(),
                    batch.column("pictures").to_pylist(),
                    strict=True,
                )
            ]
            if self._documents is None:
                self._prepare(engine, requests)
            else:
                for request in requests:
                    self._prepare_document(engine, self._documents, request)

    def _prepare(self, engine: Engine, requests: list[Request]) -> None:
        self._running[PREPARING] = (time.monotonic(), requests)
        try:
            prepared = engine.prepare(requests)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is these rows' outcome
            failure = _engine_error(error)
            prepared = [failure] * len(requests)
        self._running.pop(PREPARING)
        ready = [result for result in prepared if isinstance(result, Request)]
        if self._shows_prompts:
            shown = [
                {"row": each.row, "prompt": _shown(engine, each), "tokens": len(each.tokens or ())} for each in ready
            ]
            self.send_json(Frame.PROMPTS, shown)
        if len(ready) < len(requests):
            pairs = zip(requests, prepared, strict=True)
            self._finished.put([(request, result) for request, result in pairs if isinstance(result, RowError)])
        with self._prepared_changed:
            self._prepared.extend(ready)
            self._prepared_changed.notify_all()

    def _prepare_document(self, engine: Engine, documents: Documents, request: Request) -> None:
        """Cut a document, no further ahead of the engine than it needs to be."""
        blocks = documents.chunks(request)
        while True:
            self._running[PREPARING] = (time.monotonic(), [request])
            try:
                block = next(blocks, None)
            except EngineLostError as error:
                self._finished.put(Lost(str(error)))
                return
            finally:
                self._running.pop(PREPARING)
            if block is None:
                break
            if block:
                with self._prepared_changed:
                    self._prepared_changed.wait_for(lambda: len(self._prepared) <= CHUNKS_AHEAD * engine.info.calls)
                self._prepare(engine, block)
        self._finished.put([])  # the last of its chunks may have been known: then it has its outcome

    def _run_forever(self, engine: Engine, number: int) -> None:
        last: Sequence[int] = ()
        while True:
            requests = self._next_requests(engine, last)
            if engine.rows_per_call == 1:
                last = requests[0].tokens or ()
            self._running[number] = (time.monotonic(), requests)
            try:
                outcomes = _computed(engine, requests)
            except EngineLostError as error:
                self._finished.put(Lost(str(error)))  # behind what was finished before
                return
            del self._running[number]
            self._finished.put(list(zip(requests, outcomes, strict=True)))

    def _run_alone_forever(self, engine: Engine, batches: OutcomeBatches, seconds: Callable[[int], float]) -> None:
        """For an engine that holds the interpreter: between two of its calls no other thread can be relied on."""
        while True:
            requests = self._next_requests(engine, last=())
            self.send_json(Frame.RUNNING, {"rows": list({request.row: None for request in requests})})
            signal.setitimer(signal.ITIMER_REAL, seconds(len(requests)))
            outcomes = _computed(engine, requests)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._send(batches, self._rows_of(list(zip(requests, outcomes, strict=True))))

    def _rows_of(self, finished: list[tuple[Request, Outcome]]) -> list[tuple[Request, Outcome]]:
        """Rows that have their outcome, now that these requests have theirs."""
        return finished if self._documents is None else self._documents.take(finished)

    def _send(self, batches: OutcomeBatches, finished: list[tuple[Request, Outcome]]) -> None:
        for frame in in_frames(finished):
            batch = batches.build(frame)
            with self._write_lock:
                write_batch(self._outgoing, Frame.OUTCOMES, batch)

    def _next_requests(self, engine: Engine, last: Sequence[int]) -> list[Request]:
        with self._prepared_changed:
            while not self._prepared:
                self._prepared_changed.wait()
            requests = self._prepared.take(engine, last)
            if self._documents is not None:
                self._prepared_changed.notify_all()  # there is room for more chunks
            return requests

    def _send_forever(self, batches: OutcomeBatches, window: int) -> None:
        # The parent refills the window as outcomes arrive: most of it must never wait here for the last few.
        enough = max(1, window // 4)
        end: StuckRows | Lost | None = None
        while end is None:
            finished: list[tuple[Request, Outcome]] = []
            until: float | None = None
            size = 0
            while end is None and len(finished) < enough and size < FRAME_BYTES and not (finished and self._is_idle):
                try:
                    item = self._finished.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                until = until or time.monotonic() + GATHER_SECONDS
                if isinstance(item, (StuckRows, Lost)):
                    end = item
                else:
                    rows = self._rows_of(item)
                    finished.extend(rows)
                    size += sum(answer_bytes(outcome) for _, outcome in rows)
            self._send(batches, finished)
        if isinstance(end, Lost):
            self.send_json(Frame.LOST, {"how": end.how})
        else:
            self.send_json(Frame.STUCK, {"rows": end.alone, "shared": end.shared})
        os._exit(1)

    @property
    def _is_idle(self) -> bool:
        """Whether the parent waits for what is finished: nothing else will be, until it sends more."""
        return not self._running and not self._prepared and self._finished.empty() and self._arrived.empty()

    def _watch_forever(self, seconds: Callable[[int], float]) -> None:
        while True:
            time.sleep(min(1.0, seconds(1) / 4))
            now = time.monotonic()
            overdue = [
                requests for since, requests in list(self._running.values()) if now - since > seconds(len(requests))
            ]
            if overdue:
                calls = [list({request.row: None for request in requests}) for requests in overdue]
                alone = [rows[0] for rows in calls if len(rows) == 1]
                shared = [row for rows in calls if len(rows) > 1 for row in rows]
                self._finished.put(StuckRows(alone, shared))  # behind what was finished before
                return


def _shown(engine: Engine, request: Request) -> str:
    """What the model gets, special tokens visible, where the engine can tell; else the request's text."""
    show = getattr(engine, "shown_prompt", None)
    return request.text if show is None else str(show(request))


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
    except EngineLostError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is these rows' outcome
        return [_engine_error(error)] * len(requests)


def call_seconds(settings: EngineSettings, rows: int) -> float:
    """How long a call with so many rows may last before the engine counts as hung."""
    if settings.row_timeout is not None:
        return settings.row_timeout * rows + STUCK_GRACE_SECONDS
    thinking = Reasoning.of(settings.settings).max_tokens or 0
    tokens = int(settings.settings.get("max_tokens") or 0) + thinking
    return HUNG_SECONDS + tokens * int(settings.settings.get("n") or 1)


def _turns(sent: list[dict[str, Any]] | None) -> list[tuple[str, int]] | None:
    return None if sent is None else [(turn["role"], turn["length"]) for turn in sent]


def _engine_error(error: Exception) -> RowError:
    return RowError(ErrorType.ENGINE_ERROR, f"{type(error).__name__}: {error}")


def main() -> None:
    """Take standard input and output for the pipe; what native code prints goes to standard error."""
    end_with_parent(pipe=0)
    # Stopping a task signals its whole process group. The parent decides when this process ends: first it makes durable
    # what this one has finished, then the pipe closes.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process: what a row's time limit relies on
    keep_pandas_out()
    incoming = os.fdopen(os.dup(0), "rb", buffering=1 << 20)
    outgoing = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.dup2(2, 1)
    try:
        with seldom_collected():
            Host(incoming, outgoing).serve()
        for scratch in sys.argv[1:]:  # the parent removes it too, unless it was killed and this is not Linux
            shutil.rmtree(scratch, ignore_errors=True)
    except BrokenPipeError:
        pass
    except BaseException:  # noqa: BLE001 - the interpreter must not be torn down around the engine
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)

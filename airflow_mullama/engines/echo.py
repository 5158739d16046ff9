"""The engine without a model: for dry runs, and for testing everything around an engine.

It answers with the request itself and embeds by hashing, always the same for the same text. ``faults`` scripts what a
real engine does on a bad day; it is keyed by the row's position in its partition.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from airflow_mullama.arguments import Checked, Number, OfType, Whole
from airflow_mullama.engines.base import Embedding, EngineInfo, EngineSettings, Generation, Outcome, Request
from airflow_mullama.engines.reasoning import THINK, Reasoning, Thought, split_reasoning, without_answer
from airflow_mullama.engines.registry import EngineSpec
from airflow_mullama.engines.stop_texts import cut_at_stop
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.rows import ErrorType, RowError
from airflow_mullama.version import __version__

if TYPE_CHECKING:
    from airflow_mullama.models.resolve import Model

DEFAULT_DIMENSIONS = 8
FAULT_KINDS = ("fail", "crash", "hang", "fail_once", "crash_once")


class EchoEngine:
    """See the module. Tokens are words, so that counts and limits mean something."""

    rows_per_call = 1

    def __init__(self, settings: EngineSettings) -> None:
        options = settings.options
        self._task = settings.task
        self._delay_s = float(options.get("delay_s", 0.0))
        self._n_ctx = options.get("n_ctx")
        self._truncates = settings.settings.get("truncate") == "end"
        self._dimensions = int(options.get("dimensions", DEFAULT_DIMENSIONS))
        self._faults = parse_faults(options.get("faults") or {})
        self._max_tokens = int(settings.settings.get("max_tokens", 0))
        self._stop = tuple((settings.settings.get("sampling") or {}).get("stop") or ())
        self._reasoning = Reasoning.of(settings.settings)
        self._tags = self._reasoning.tags or THINK
        self._log = options.get("request_log")
        self.rows_per_call = 1 if self._delay_s or self._faults else 512
        n_parallel = int(options.get("n_parallel", 4))
        self.info = EngineInfo(
            engine="echo",
            version=__version__,
            n_parallel=n_parallel,
            calls=n_parallel,
            window=2 * n_parallel * self.rows_per_call,
            n_ctx=self._n_ctx,
            dimensions=self._dimensions if settings.task == "embed" else None,
            text_tokens=None if self._n_ctx is None else self._n_ctx - 1,
            chat=bool(settings.settings.get("chat")),
            constrained=False if settings.settings.get("output_schema") else None,
        )

    def close(self) -> None:
        """It holds nothing."""

    def prepare(self, requests: Sequence[Request]) -> list[Request | RowError]:
        return [self._prepare(request) for request in requests]

    def _prepare(self, request: Request) -> Request | RowError:
        if self._n_ctx is not None and len(request.text.split()) >= self._n_ctx:
            if self._truncates:
                request.text, request.truncated = " ".join(request.text.split()[: self._n_ctx - 1]), True
                return request
            words = len(request.text.split())
            return RowError(
                ErrorType.PROMPT_TOO_LONG,
                f"the request has {words} tokens and n_ctx is {self._n_ctx}: shorten the text or raise n_ctx",
            )
        return request

    def count_tokens(self, requests: Sequence[Request]) -> list[int]:
        return [len(request.text.split()) for request in requests]

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        if self._log:
            with open(self._log, "a") as log:
                log.write("".join(f"{request.row}\n" for request in requests if request.row >= 0))  # without trials
        if self._delay_s:
            time.sleep(self._delay_s * len(requests))
        if self._task == "embed":
            vectors = hash_vectors([request.text for request in requests], self._dimensions)
            return [
                self._fault(request) or Embedding(vector, len(request.text.split()), request.truncated)
                for request, vector in zip(requests, vectors, strict=True)
            ]
        return [self._fault(request) or self._answer(request) for request in requests]

    def _fault(self, request: Request) -> RowError | None:
        if not self._faults:
            return None
        fault = self._faults.get(request.row)
        if fault == "crash" or (fault == "crash_once" and _first_time(self._log, request.row)):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            threading.Event().wait()
        if fault == "fail" or (fault == "fail_once" and request.attempt == 1):
            return RowError(ErrorType.ENGINE_ERROR, f"scripted failure of row {request.row}")
        return None

    def _answer(self, request: Request) -> Outcome:
        said = request.text if request.turns is None else _conversation(request)
        words = said.split()
        most = self._max_tokens if self._n_ctx is None else min(self._max_tokens, self._n_ctx - len(words))
        thought = split_reasoning(said, self._tags)
        if thought.length:
            return self._reasoned(thought, most, len(words))
        return self._said(said, most, len(words))

    def _said(self, text: str, most: int, prompt_tokens: int) -> Generation:
        words = text.split()
        cut = len(words) > most
        text = " ".join(words[:most]) if cut else text
        stopped = False
        if self._stop:
            text, _, stopped = cut_at_stop([text], self._stop)
        return Generation(
            response=text,
            finish_reason="length" if cut and not stopped else "stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(text.split()) if stopped else min(len(words), most),
        )

    def _reasoned(self, thought: Thought, most: int, prompt_tokens: int) -> Outcome:
        """A request that begins as an answer of a model that thinks: the thought, and then the answer."""
        thinking = (thought.reasoning or "").split()
        most_thinking = self._reasoning.max_tokens or most
        kept = thinking[:most_thinking]
        reasoning = " ".join(kept) if len(kept) < len(thinking) else thought.reasoning
        room = most if self._reasoning.max_tokens else most - len(kept)
        if thought.answer is None or room <= 0:
            generation = Generation(
                "", "length", prompt_tokens, len(kept), reasoning=reasoning, reasoning_tokens=len(kept)
            )
            return without_answer(generation, cut=room <= 0, remedy="raise max_tokens")
        said = self._said(thought.answer, room, prompt_tokens)
        written = len(kept) + (said.completion_tokens or 0)
        return replace(said, completion_tokens=written, reasoning=reasoning, reasoning_tokens=len(kept))


def _conversation(request: Request) -> str:
    """A line for each message."""
    return "\n".join(f"{role}: {''.join(text for text, _ in parts)}" for role, parts in request.messages)


def _first_time(log: str | None, row: int) -> bool:
    # A restarted worker remembers nothing: the request log is what outlives it.
    if log is None:
        return True
    with open(log) as lines:
        return sum(line.strip() == str(row) for line in lines) <= 1


def hash_vectors(texts: Sequence[str], dimensions: int) -> npt.NDArray[np.float32]:
    """Vectors in [-1, 1) made of the texts' hashes: ``float32[len(texts), dimensions]``."""
    digests = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts)
    seeds = np.frombuffer(digests, np.uint32).reshape(-1, 2)
    # A Weyl sequence from each text's hash, its bits mixed (Wellons' lowbias32): fast, and no two rows look alike.
    steps = np.arange(1, dimensions + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    mixed = seeds[:, :1] + steps
    mixed ^= seeds[:, 1:]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed ^= mixed >> np.uint32(shift)
        mixed *= np.uint32(factor)
    vectors: npt.NDArray[np.float32] = (mixed >> np.uint32(8)).astype(np.float32)
    vectors *= np.float32(2**-23)
    vectors -= np.float32(1)
    return vectors


def hash_vector(text: str, dimensions: int) -> npt.NDArray[np.float32]:
    """The vector of one text: ``float32[dimensions]``."""
    vector: npt.NDArray[np.float32] = hash_vectors([text], dimensions)[0]
    return vector


def parse_faults(faults: Mapping[str, Any]) -> dict[int, str]:
    """Turn ``{"fail": [3, 5], "crash": [7]}`` into ``{3: "fail", 5: "fail", 7: "crash"}``.

    Raises:
        ConfigurationError: an unknown kind, or rows that are not whole numbers.
    """
    if not isinstance(faults, Mapping):
        raise ConfigurationError(
            f"engine_options['faults'] is {faults!r}; it must be a dictionary such as {{'fail': [3], 'crash': [7]}}."
        )
    by_row: dict[int, str] = {}
    for kind, rows in faults.items():
        if kind not in FAULT_KINDS:
            raise ConfigurationError(f"engine_options['faults'] has {kind!r}; it may have {', '.join(FAULT_KINDS)}.")
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, int) for row in rows):
            raise ConfigurationError(f"engine_options['faults'][{kind!r}] is {rows!r}; it must be a list of rows.")
        by_row.update(dict.fromkeys(rows, kind))
    return by_row


def _check_dimensions(task: str, settings: Mapping[str, Any], options: Mapping[str, Any], model: Model) -> None:
    length = int(options.get("dimensions", DEFAULT_DIMENSIONS))
    if task == "embed" and (settings.get("dimensions") or 0) > length:
        raise ConfigurationError(
            f"dimensions is {settings['dimensions']} and the vectors of 'echo' have {length} numbers "
            "(engine_options['dimensions'])."
        )


SPEC = EngineSpec(
    name="echo",
    package=None,
    install="it is part of this package",
    find_model=None,
    start=EchoEngine,
    checks={
        "delay_s": Number(0.0, 3600.0),
        "n_parallel": Whole(1, 256),
        "n_workers": Whole(1, 64),
        "n_ctx": Whole(1, 1_000_000),
        "dimensions": Whole(1, 65_536),
        "faults": Checked(parse_faults),
        "request_log": OfType(str, "the path of a file that gets one line a request"),
    },
    output_options=frozenset({"n_ctx", "dimensions"}),
    check_model=_check_dimensions,
    vector_length=lambda options, model: int(options.get("dimensions", DEFAULT_DIMENSIONS)),
    truncates=True,
)

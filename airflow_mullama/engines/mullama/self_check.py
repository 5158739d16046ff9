"""What the installed mullama bindings can be relied on for.

``python -m airflow_mullama.engines.mullama.self_check MODEL``, as ``airflow-mullama doctor`` runs it. It runs in a
process of its own, because what it looks for may end the process, and prints one JSON line: what it found, in words, by
what it looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow_mullama.child_process import end_with_parent
from airflow_mullama.engines.base import EngineSettings, Generation, Request
from airflow_mullama.engines.mullama.bindings import import_bindings, installed_version
from airflow_mullama.engines.mullama.embeddings import GeneratedMean, LastToken, try_out
from airflow_mullama.engines.mullama.engine import MullamaEngine
from airflow_mullama.errors import MullamaError
from airflow_mullama.models.gguf_header import read_gguf_header

TRIAL_PROMPTS = ("Where is my parcel?", "Thank you for the refund, and for being so quick about it!")
TRIAL_TOKENS = 8
TRIAL_N_CTX = 256
SOUND = "sound"


def self_check(model: str) -> dict[str, str]:
    """Try the bindings out.

    Args:
        model: path of a GGUF file.
    """
    mullama = import_bindings()
    found = {
        "version": installed_version(mullama),
        "GPU offload": "yes" if mullama.supports_gpu_offload() else "no",
    }
    header = read_gguf_header(Path(model))
    if not header.is_encoder:
        try:
            found["generation"] = _generation(model)
        except MullamaError as error:
            found["generation"] = str(error)
    found["embeddings"] = _embeddings(mullama, model, is_encoder=header.is_encoder)
    return found


def _generation(model: str) -> str:
    settings: dict[str, Any] = {"system_prompt": None, "chat": None, "max_tokens": TRIAL_TOKENS, "sampling": {}}
    engine = MullamaEngine(
        EngineSettings(task="generate", model=model, options={"n_ctx": TRIAL_N_CTX}, settings=settings)
    )
    answers: dict[str, str] = {}
    first, second = TRIAL_PROMPTS
    for attempt, prompt in enumerate((first, second, first, second), 1):
        (request,) = engine.prepare([Request(0, attempt, prompt)])
        if not isinstance(request, Request):
            return request.message
        (outcome,) = engine.run([request])
        if not isinstance(outcome, Generation):
            return getattr(outcome, "message", repr(outcome))
        if answers.setdefault(prompt, outcome.response) != outcome.response:
            return "unsound: the same prompt gives different answers at temperature 0"
    return SOUND


def _embeddings(mullama: Any, path: str, *, is_encoder: bool) -> str:
    model = mullama.Model.load(path)

    def tokenize(text: str) -> list[int]:
        return list(model.tokenize(text, True, False))

    problem = try_out(GeneratedMean(mullama, model, TRIAL_N_CTX), tokenize)
    generator = f"EmbeddingGenerator is {SOUND}" if problem is None else f"EmbeddingGenerator is not used: {problem}"
    if is_encoder:
        return generator
    context = mullama.Context(model, n_ctx=TRIAL_N_CTX, n_batch=TRIAL_N_CTX, n_threads=1, embeddings=True)
    problem = try_out(LastToken(context, TRIAL_N_CTX), tokenize)
    return f"{generator}; Context is {SOUND if problem is None else f'unsound: {problem}'}"


if __name__ == "__main__":
    end_with_parent(pipe=0)
    try:
        result = self_check(sys.argv[1])
    except MullamaError as error:
        result = {"self-test": str(error)}
    print(json.dumps(result))  # noqa: T201 - its output

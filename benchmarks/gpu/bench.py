"""What the figures share: models, tables, processes, and the line that a figure is."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from models import write_model

HERE = Path(__file__).parent
TOKENS_IN, TOKENS_OUT = 200, 64
SLOTS = (16, 64, 128, 256)


@dataclass
class Figure:
    """One line of the table.

    Args:
        name: of what was measured.
        words: the numbers behind the ratio.
        ratio: ours over the limit or peer; ``None`` if it failed.
        target: that the ratio should reach.
        skipped: why it was not measured.
        took: seconds of the whole figure.
        numbers: everything that was measured.
    """

    name: str
    words: str
    ratio: float | None
    target: float | None = None
    skipped: str | None = None
    took: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.skipped is not None:
            return f"{self.name:<32} skipped: {self.skipped}"
        ratio = "FAILED" if self.ratio is None else f"{self.ratio:.2f}"
        target = "" if self.target is None else f" (target {self.target:g})"
        return f"{self.name:<32} {ratio}{target}  {self.words}  [{self.took:.0f} s]"


Parts = Iterator[Callable[[], Figure]]


class Bench:
    """What the figures share.

    Args:
        folder: for models and tables.
        dry_run: tiny models on the CPU.
        minilm: folder with ``minilm-f16.gguf`` and ``all-MiniLM-L6-v2``, if it was carried along.
    """

    def __init__(self, folder: Path, *, dry_run: bool, minilm: Path | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.dry_run = dry_run
        self.minilm = minilm
        self.shapes = ("tiny",) if dry_run else ("1b", "8b")
        self.slots = (2, 4) if dry_run else SLOTS
        self.options: dict[str, Any] = {"n_ctx": 512}
        if dry_run:
            self.options["n_threads"] = 1

    def model(self, shape: str | None = None, quantization: str = "q8_0") -> str:
        return str(write_model(self.folder, shape or self.shapes[-1], quantization))

    def table(self, name: str, texts: list[str]) -> str:
        path = self.folder / f"{name}.parquet"
        pq.write_table(pa.table({"text": texts}), path)
        return str(path)

    def child(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a function of ``children.py`` in a process of its own."""
        done = subprocess.run(
            [sys.executable, str(HERE / "children.py"), name, json.dumps(arguments)],
            capture_output=True, text=True, check=False, env=environment(),
        )  # fmt: skip
        try:
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr.strip()[-1500:]}") from None
        return result

    def generate(self, source: str, **arguments: Any) -> dict[str, Any]:
        """A generation through this package."""
        options = {**self.options, **arguments.pop("engine_options", {})}
        defaults = {"prompt_column": "text", "chat": False, "max_tokens": TOKENS_OUT, "if_exists": "overwrite"}
        arguments = {"model": self.model(), **defaults, "engine_options": options, **arguments}
        return self.child("job", kind="generate", source=source, target=f"{source}.out", arguments=arguments)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *filter(None, sys.path)])}


WORDS = "self def return class import value name list index text number string path error file".split()  # noqa: SIM905


def prompts(rows: int, words: int = TOKENS_IN, *, shared: str = "") -> list[str]:
    """Texts of about as many tokens as words, all different, so that no prompt cache flatters anybody."""
    chance = random.Random(rows)
    return [f"{shared}{row} {' '.join(chance.choices(WORDS, k=words))}" for row in range(rows)]

"""Clients that ask a server for a generation of every row of a Parquet file, and write Parquet: ours and its peers.

Run as a script, it is one client in a process of its own, which imports nothing that the client does not need.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

MAX_TOKENS = 48
OURS = "airflow-mullama"
# Ray asks the rows of one batch one after the other, on a connection of the batch's own. Of 1, 4, 8 and 16 rows, 8 kept
# the most requests in flight.
RAY_BATCH_ROWS = 8
# Nobody is told of these runs, and nobody's CPU time goes into telling.
NO_TELEMETRY = {"RAY_USAGE_STATS_ENABLED": "0", "DAFT_ANALYTICS_ENABLED": "0", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Work:
    """What a client is to do.

    Args:
        source: a Parquet file with the columns ``id`` and ``text``.
        target: where Parquet with the columns ``id`` and ``response`` is to be: a file or a folder.
        url: of the server's OpenAI endpoints.
        model: the server's name for it.
        template: the prompt, with ``{text}``.
        in_flight: requests at once.
    """

    source: str
    target: str
    url: str
    model: str
    template: str
    in_flight: int

    def request(self, text: str) -> dict[str, Any]:
        """The body of a chat completion."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": self.template.format(text=text)}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0.0,
        }


def ask_with_this_package(work: Work) -> None:
    from airflow_mullama import GenerateJob, run_partition

    job = GenerateJob(
        model=work.model,
        engine="openai",
        prompt_template=work.template,
        max_tokens=MAX_TOKENS,
        engine_options={"endpoint": work.url, "n_parallel": work.in_flight},
    )
    run_partition(job, work.source, work.target, listeners=[])


def ask_with_openai_threads(work: Work) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import pyarrow as pa
    import pyarrow.parquet as pq
    from openai import OpenAI

    table = pq.read_table(work.source)
    with OpenAI(base_url=work.url, api_key="none") as client, ThreadPoolExecutor(work.in_flight) as pool:

        def ask(text: str) -> str | None:
            answer = client.chat.completions.create(**work.request(text))
            return answer.choices[0].message.content

        responses = list(pool.map(ask, table["text"].to_pylist()))
    pq.write_table(table.append_column("response", pa.array(responses, pa.string())), work.target)


def ask_with_openai_asyncio(work: Work) -> None:
    """As many coroutines as requests in flight; each takes the next row."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from openai import AsyncOpenAI

    table = pq.read_table(work.source)
    responses: list[str | None] = [None] * table.num_rows

    async def ask_all() -> None:
        rows = enumerate(table["text"].to_pylist())
        async with AsyncOpenAI(base_url=work.url, api_key="none") as client:

            async def ask_in_turn() -> None:
                for row, text in rows:
                    answer = await client.chat.completions.create(**work.request(text))
                    responses[row] = answer.choices[0].message.content

            await asyncio.gather(*(ask_in_turn() for _ in range(work.in_flight)))

    asyncio.run(ask_all())
    pq.write_table(table.append_column("response", pa.array(responses, pa.string())), work.target)


def ask_with_daft(work: Work) -> None:
    """``concurrency`` counts batches. Left alone, they are so large that hundreds of requests are in flight."""
    import daft
    from daft.ai.openai.provider import OpenAIProvider
    from daft.functions import prompt

    before, after = work.template.split("{text}")
    answer = prompt(
        daft.lit(before) + daft.col("text") + daft.lit(after),
        provider=OpenAIProvider(base_url=work.url, api_key="none"),
        model=work.model,
        use_chat_completions=True,
        concurrency=work.in_flight,
        max_tokens=MAX_TOKENS,
        temperature=0.0,
    )
    daft.read_parquet(work.source).into_batches(1).with_column("response", answer).write_parquet(work.target)


def ask_with_ray(work: Work) -> None:
    """One actor; Ray lets it work on four batches at once unless the environment says otherwise."""
    os.environ["RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY"] = str(work.in_flight)
    import ray
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False

    def answer_of(row: dict[str, Any]) -> dict[str, Any]:
        content = row["http_response"]["choices"][0]["message"]["content"]
        return {"id": row["id"], "text": row["text"], "response": content}

    config = HttpRequestProcessorConfig(
        url=f"{work.url}/chat/completions", batch_size=RAY_BATCH_ROWS, concurrency=1, max_retries=2
    )
    template, model, max_tokens = work.template, work.model, MAX_TOKENS

    def payload_of(row: dict[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": template.format(text=row["text"])}]
        return {"payload": {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}}

    processor = build_processor(config, preprocess=payload_of, postprocess=answer_of)
    processor(ray.data.read_parquet(work.source)).write_parquet(work.target)


@dataclass(frozen=True)
class Client:
    """Something that users would pick.

    Args:
        ask: does the work.
        modules: that it imports.
        package: whose version is shown.
        note: shown behind it.
        install: how its packages get there.
    """

    ask: Callable[[Work], None]
    modules: tuple[str, ...]
    package: str
    install: str
    note: str = ""

    @property
    def missing(self) -> bool:
        """Whether something that it imports is not installed."""
        return any(importlib.util.find_spec(module) is None for module in self.modules)

    @property
    def title(self) -> str:
        return f"{self.package} {importlib.metadata.version(self.package)}{self.note}"


CLIENTS: Mapping[str, Client] = {
    OURS: Client(ask_with_this_package, ("airflow_mullama",), "airflow-mullama", "make peers"),
    "openai, threads": Client(ask_with_openai_threads, ("openai",), "openai", "pip install openai", ", threads"),
    "openai, asyncio": Client(ask_with_openai_asyncio, ("openai",), "openai", "pip install openai", ", asyncio"),
    "daft prompt": Client(ask_with_daft, ("daft", "openai"), "daft", "pip install 'daft[openai]'", ", prompt"),
    "ray.data.llm": Client(
        ask_with_ray, ("ray", "aiohttp"), "ray", "pip install 'ray[data]' aiohttp", ", ray.data.llm"
    ),
}


def command(name: str, works: list[Work]) -> list[str]:
    """A process that does one work after the other; a line on its standard output says that one is done."""
    return [sys.executable, __file__, name, json.dumps([asdict(work) for work in works])]


def main(name: str, works: str) -> None:
    marks = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no mark
    for work in json.loads(works):
        CLIENTS[name].ask(Work(**work))
        print(file=marks, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])

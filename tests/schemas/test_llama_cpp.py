"""A real model under llama.cpp's constraint: what the grammar holds it to is what the schema says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from airflow_mullama.schemas import OutputSchema, Violation, llama_cpp_schema, load_output_schema, parse_answer

# In a process of its own, which leaves by os._exit: a Server's listener would outlive the test.
PROGRAM = """
import json, os, sys
import xllamacpp
from airflow_mullama import demo

params = xllamacpp.CommonParams()
params.model.path = os.path.join(os.path.dirname(demo.__file__), "models", "ticket-tagger.gguf")
params.n_ctx, params.n_parallel, params.verbosity = 512, 1, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
answers = []
for schema in json.load(sys.stdin):
    answers.append([])
    for seed in range(4):
        # Hot, so that nothing but the grammar keeps the answer in shape.
        request = {"prompt": "<|user|>Tag this ticket: charged twice<|assistant|>", "max_tokens": 200, "seed": seed}
        request |= {"json_schema": schema, "temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        choice = server.handle_completions(request)["choices"][0]
        answers[-1].append([choice["finish_reason"], choice["text"]])
print(json.dumps(answers), flush=True)
os._exit(0)
"""


def bounded(value: dict[str, Any]) -> OutputSchema:
    return load_output_schema({"type": "object", "properties": {"a": value}, "required": ["a"]})


HELD = {
    "string": bounded({"type": "string", "minLength": 2, "maxLength": 9}),
    "nullable string": bounded({"type": ["string", "null"], "maxLength": 9}),
    "prefix labels": bounded({"enum": ["bill", "billing", 'a "quoted" one', "é😀", ""]}),
    "nullable labels": bounded({"enum": ["a", None]}),
    "integer": bounded({"type": "integer"}),
    "integer of 64 bits": bounded({"type": "integer", "minimum": -(2**63) + 1, "maximum": 2**63 - 2}),
    "small integer": bounded({"type": "integer", "exclusiveMinimum": -3, "maximum": 12}),
    "boolean": bounded({"type": "boolean"}),
    "date": bounded({"type": "string", "format": "date"}),
    "array": bounded({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4}),
    "fixed integers": load_output_schema(pa.schema([(str(t), t) for t in (pa.int8(), pa.int64(), pa.uint32())])),
    "fixed list": load_output_schema(pa.schema([pa.field("a", pa.list_(pa.int16(), 3), nullable=False)])),
    "object": bounded(
        {
            "type": ["object", "null"],
            "properties": {'b "\n': {"type": "null"}, "string": {"type": "boolean"}},
            "required": ["string"],
        }
    ),
}
# Their range is what is tried: a random model may write digits or a fraction of a second until it is cut.
OPEN_ENDED = {
    "number": bounded({"type": "number", "minimum": 0, "exclusiveMaximum": 1}),
    "float32": load_output_schema(pa.schema([("a", pa.float32())])),
    "date-time": bounded({"type": "string", "format": "date-time"}),
    "long text": bounded({"type": "string", "minLength": 3000, "maxLength": 100_000}),
    "long list": bounded({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "minItems": 1000}),
}


@pytest.fixture(scope="module")
def generated() -> dict[str, list[tuple[str, str]]]:
    schemas = {**HELD, **OPEN_ENDED}
    constraints = json.dumps([llama_cpp_schema(schema) for schema in schemas.values()])
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, input=constraints, capture_output=True, text=True, check=True, timeout=200)
    return dict(zip(schemas, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("name", HELD)
def test_a_constrained_model_cannot_break_the_schema(generated: dict[str, Any], name: str) -> None:
    for finish_reason, text in generated[name]:
        assert finish_reason == "stop", text
        assert not isinstance(parse_answer(text, HELD[name]), Violation), text


@pytest.mark.integration
@pytest.mark.parametrize("name", OPEN_ENDED)
def test_a_schema_with_long_answers_is_not_ignored(generated: dict[str, Any], name: str) -> None:
    for finish_reason, text in generated[name]:
        assert text.startswith('{"a":'), text
        outcome = parse_answer(text, OPEN_ENDED[name])
        if finish_reason == "stop" and isinstance(outcome, Violation):
            # llguidance allows leap seconds, and exponents beyond every double.
            assert "leap second" in outcome.reason or "does not fit into" in outcome.reason, text


def test_what_the_grammar_cannot_hold_is_left_out() -> None:
    values = {
        "huge": {"type": "number", "minimum": -1e30, "maximum": 1e30, "description": "d"},
        "tiny": {"type": "number", "minimum": -1e-300, "exclusiveMaximum": 1},
        "long": {"type": "string", "maxLength": 2001},
        "beyond": {"type": "integer", "minimum": 2**53, "maximum": 2**60},
        "labels": {"type": "integer", "enum": [1]},
    }

    constraint = llama_cpp_schema(load_output_schema({"type": "object", "properties": values}))
    assert constraint["additionalProperties"] is False
    assert constraint["properties"] == {
        "huge": {"type": "number", "description": "d"},
        "tiny": {"type": "number", "exclusiveMaximum": 1},
        "long": {"type": "string"},
        "beyond": {"type": "integer", "minimum": 2**53, "maximum": 9 * 10**18},
        "labels": {"type": "integer", "enum": [1]},
    }

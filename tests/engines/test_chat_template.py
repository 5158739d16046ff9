"""Templates of well-known kinds, rendered here and by llama.cpp's own engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

from airflow_mullama.engines import chat_template
from airflow_mullama.engines.base import Request
from airflow_mullama.engines.chat_template import EndlessTemplateGuard, render_chat_template
from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.rows import ErrorType, RowError

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
INSTRUCT = (
    "{%- for message in messages %}\n    {%- if message['role'] == 'user' %}\n        {{- '[INST] ' "
    "+ message['content'] + ' [/INST]' }}\n    {%- endif %}\n{%- endfor %}\n"
)
TEMPLATES = {"chatml": CHATML, "llama-3": LLAMA_3, "gemma": GEMMA, "instruct": INSTRUCT, "tiny": CHAT_TEMPLATE}
USER = {"role": "user", "content": "What's <b>this</b>?"}
SYSTEM = {"role": "system", "content": "Be brief & kind."}


@pytest.mark.integration
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_it_renders_as_llama_cpps_engine_does(tmp_path: Path, start_engine: Any, template: str) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", chat_template=template)
    engine, header = start_engine(model), read_gguf_header(model)
    for messages in ([USER], [SYSTEM, USER]):
        # llama.cpp leaves the text of BOS to its tokenizer; here it is a part of the text, and becomes the same token.
        ours = render_chat_template(header, messages).removeprefix("<|bos|>")
        assert ours == engine._http.render_chat(messages).removeprefix("<|bos|>")


def header_with(template: str) -> GgufHeader:
    return GgufHeader({"tokenizer.chat_template": template})


def test_a_template_that_does_not_render_says_so() -> None:
    for broken in ("{% for %}", "{{ messages[7]['content'] }}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"):
        with pytest.raises(ModelLoadError, match="chat=False"):
            render_chat_template(header_with(broken), [SYSTEM, USER])


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelLoadError, match="unsafe"):
        render_chat_template(header_with(escape), [USER])


ENDLESS = {
    "nested loops": "{% for a in range(100000) %}" * 3 + "{% endfor %}" * 3,
    "only with a system prompt": (
        "{% if messages[0]['role'] == 'system' %}"
        + "{% for a in range(100000) %}" * 3
        + "x"
        + "{% endfor %}" * 3
        + "{% endif %}"
    ),
    "a long range": "{% for a in range(1000000000000) %}{% endfor %}",
    "a macro in itself": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "brackets in brackets": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch, template: str) -> None:
    monkeypatch.setattr(chat_template, "MOST_STEPS", 20_000)
    tracer = sys.gettrace()
    with pytest.raises(ModelLoadError, match="does not come to an end"):
        EndlessTemplateGuard(header_with(template)).try_template()
    with pytest.raises(ModelLoadError, match="does not come to an end"):
        render_chat_template(header_with(template), [SYSTEM, USER])
    assert sys.gettrace() is tracer


def test_a_template_that_fails_in_another_way_is_the_engines_to_judge() -> None:
    for template in (*TEMPLATES.values(), "{{ messages.foo.bar }}", "{% for %}", "{{ raise_exception('no') }}"):
        EndlessTemplateGuard(header_with(template)).try_template()
    EndlessTemplateGuard(GgufHeader({})).try_template()


def test_no_known_template_comes_near_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MOST_STEPS", chat_template.MOST_STEPS // 1000)
    for path in sorted(Path(__file__).parents[1].joinpath("data/chat_templates").glob("*.jinja")):
        EndlessTemplateGuard(header_with(path.read_text())).try_template()


@pytest.mark.integration
def test_no_engine_is_given_a_template_that_does_not_end(
    tmp_path: Path, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_gguf(tmp_path / "m.gguf", chat_template=ENDLESS["nested loops"])
    start_engine(model, chat=False)
    monkeypatch.setattr(chat_template, "MOST_STEPS", 20_000)
    with pytest.raises(ModelLoadError, match="does not come to an end"):
        start_engine(model)


@pytest.mark.integration
def test_a_conversation_for_which_the_template_does_not_end_is_that_rows_error(
    tmp_path: Path, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = "{% if messages | length > 20 %}" + ENDLESS["nested loops"] + "{% endif %}"
    engine = start_engine(write_tiny_gguf(tmp_path / "m.gguf", chat_template=loops + CHAT_TEMPLATE))
    monkeypatch.setattr(chat_template, "MOST_STEPS", 20_000)
    turns = [(role, 1) for role in ("user", "assistant") * 11][:21]
    long, short = Request(0, 1, "a" * 21, turns=turns), Request(1, 1, "abc", turns=turns[:3])
    bad, good = engine.prepare([long, short])
    assert isinstance(bad, RowError)
    assert bad.error_type is ErrorType.RENDER_ERROR
    assert "does not come to an end" in bad.message
    assert isinstance(good, Request)


def test_helpers_of_templates_are_there() -> None:
    template = (
        "{{ strftime_now('%Y') | length }} {{ messages[0] | tojson }}{% for m in messages %}{% break %}{% endfor %}"
    )
    rendered = render_chat_template(header_with(template), [{"role": "user", "content": "<é>"}])
    assert rendered == '4 {"role": "user", "content": "<é>"}'

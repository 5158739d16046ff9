"""Templates of well-known kinds, rendered here and by llama.cpp's own engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

from airflow_mullama.engines.chat_template import render_chat_template
from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header

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
    engine, header = start_engine(model, chat=False), read_gguf_header(model)
    for messages in ([USER], [SYSTEM, USER]):
        # llama.cpp leaves the text of BOS to its tokenizer; here it is a part of the text, and becomes the same token.
        ours = render_chat_template(header, messages).removeprefix("<|bos|>")
        assert ours == engine._http.render_chat(messages).removeprefix("<|bos|>")


def header_with(template: str) -> GgufHeader:
    return GgufHeader({"tokenizer.chat_template": template})


def test_a_template_that_does_not_render_says_so() -> None:
    for broken in ("{% for %}", "{{ messages[7]['content'] }}", "{{ raise_exception('no') }}"):
        with pytest.raises(ModelLoadError, match="chat=False"):
            render_chat_template(header_with(broken), [SYSTEM, USER])


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ModelLoadError, match="unsafe"):
        render_chat_template(header_with(escape), [USER])


def test_helpers_of_templates_are_there() -> None:
    template = (
        "{{ strftime_now('%Y') | length }} {{ messages[0] | tojson }}{% for m in messages %}{% break %}{% endfor %}"
    )
    rendered = render_chat_template(header_with(template), [{"role": "user", "content": "<é>"}])
    assert rendered == '4 {"role": "user", "content": "<é>"}'

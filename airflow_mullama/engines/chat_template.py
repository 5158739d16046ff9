"""Rendering a model's own chat template, for engines whose library only knows a list of common ones.

Templates are Jinja as the Hugging Face ``transformers`` library runs it, with which their makers test them. They come
with a model file, so they run in Jinja's sandbox.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader


def render_chat_template(header: GgufHeader, messages: Sequence[dict[str, str]]) -> str:
    """Fill the model's template, up to where the answer begins.

    A system message that the template refuses or leaves out is put before the user's message, as llama.cpp does.

    Args:
        header: of a model that carries a template.
        messages: each with ``role`` and ``content``; a system message, if any, is the first.

    Raises:
        ModelLoadError: the template does not render.
    """
    from jinja2 import TemplateError

    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    try:
        prompt = _render(header, messages)
        if system is None or system.strip() in prompt:
            return prompt
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        if system is None:
            raise ModelLoadError(
                f"The model's chat template does not render ({type(error).__name__}: {error}); set chat=False, or "
                "repair the template."
            ) from error
    merged = f"{system}\n{messages[1]['content']}"
    return render_chat_template(header, [{**messages[1], "content": merged}, *messages[2:]])


def _render(header: GgufHeader, messages: Sequence[dict[str, str]]) -> str:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=_now)
    return environment.from_string(header.chat_template or "").render(
        messages=list(messages),
        add_generation_prompt=True,
        bos_token=_special_token(header, "bos_token_id"),
        eos_token=_special_token(header, "eos_token_id"),
    )


def _special_token(header: GgufHeader, key: str) -> str:
    return header.special_tokens.get(header.metadata.get(f"tokenizer.ggml.{key}", -1), "")


def _to_json(value: Any, indent: int | None = None) -> str:
    # Jinja's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(format_: str) -> str:
    return datetime.datetime.now().astimezone().strftime(format_)

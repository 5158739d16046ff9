"""Rendering a model's own chat template, for engines whose library only knows a list of common ones.

Templates are Jinja as the Hugging Face ``transformers`` library runs it, with which their makers test them. They come
with a model file, so they run in Jinja's sandbox, and for a bounded number of steps.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import Any, NoReturn

from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader

log = logging.getLogger(__name__)

# Lines of the compiled template: a conversation of a hundred messages takes some ten thousand, a second has a million.
MOST_STEPS = 5_000_000
# A shape is as many words as the conversation has messages.
MOST_TRIED_SHAPES = 1000
# Jinja's name for the code of a template that comes from no file.
_CODE_NAME = "<template>"
# Conversations of the commonest shapes that llama.cpp itself tries a template with; it has others, with tools.
TRIAL_CONVERSATIONS: Sequence[Sequence[dict[str, str]]] = (
    [{"role": "user", "content": "Hello."}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."}],
    [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "How are you?"},
    ],
)


class _TooManyStepsError(Exception):
    """The template goes on and on."""


# What has no end, or none that a machine sees. OverflowError: the sandbox allows no range of more than 100,000.
_ENDLESS = (_TooManyStepsError, RecursionError, OverflowError, MemoryError)


def render_chat_template(
    header: GgufHeader, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any] | None = None
) -> str:
    """Fill the model's template, up to where the answer begins.

    A system message that the template refuses or leaves out is put before the user's message, as llama.cpp does.

    Args:
        header: of a model that carries a template.
        messages: each with ``role`` and ``content``; a system message, if any, is the first.
        arguments: further variables of the template.

    Raises:
        ModelLoadError: the template does not render.
    """
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    try:
        prompt = _render(header, messages, arguments or {})
        if system is None or system.strip() in prompt:
            return prompt
    except _ENDLESS as error:
        raise _endless(error) from None
    except Exception as error:
        if system is None:
            raise ModelLoadError(
                f"The model's chat template does not render ({type(error).__name__}: {error}){remedy(arguments)}."
            ) from error
    merged = f"{system}\n{messages[1]['content']}"
    return render_chat_template(header, [{**messages[1], "content": merged}, *messages[2:]], arguments)


def try_template(header: GgufHeader) -> None:
    """Render the model's template, if it carries one, and Jinja is there to do it.

    Raises:
        ModelLoadError: it does not render.
    """
    if header.chat_template is not None and importlib.util.find_spec("jinja2") is not None:
        render_chat_template(header, [{"role": "user", "content": "Hello."}])


class EndlessTemplateGuard:
    """Renders with a bound before an engine renders without one: once for each shape of a conversation.

    A template that fails in another way is that engine's to judge: it may know more, or less, of Jinja.

    Args:
        header: of the model.
    """

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        self._active = header.chat_template is not None and importlib.util.find_spec("jinja2") is not None
        self._tried: set[tuple[str, ...]] = set()

    def try_template(self) -> None:
        """Try conversations of the usual shapes, before the model is loaded.

        Raises:
            ModelLoadError: the template does not come to an end.
        """
        for messages in TRIAL_CONVERSATIONS:
            self.check(messages)

    def check(self, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Try a conversation, if none of its shape was tried.

        Args:
            messages: each with ``role`` and ``content``.
            arguments: further variables of the template.

        Raises:
            ModelLoadError: the template does not come to an end.
        """
        shape = (repr(sorted(arguments.items())), *(message["role"] for message in messages))
        if not self._active or shape in self._tried:
            return
        try:
            _render(self._header, messages, arguments)
        except _ENDLESS as error:
            raise _endless(error) from None
        except Exception as error:  # noqa: BLE001 - it may raise anything
            log.debug("the chat template fails: %s: %s", type(error).__name__, error)
        if len(self._tried) >= MOST_TRIED_SHAPES:
            self._tried.clear()
        self._tried.add(shape)


def remedy(arguments: Mapping[str, Any] | None) -> str:
    """What to do about a template that does not render."""
    given = f"correct chat_template_kwargs (now {dict(arguments)!r}), " if arguments else ""
    return f"; {given}set chat=False, or repair the template"


def _render(header: GgufHeader, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any]) -> str:
    template = _compiled(header.chat_template or "")
    with _counted_steps():
        prompt: str = template.render(
            **arguments,
            messages=list(messages),
            add_generation_prompt=True,
            bos_token=_special_token(header, "bos_token_id"),
            eos_token=_special_token(header, "eos_token_id"),
        )
    return prompt


@functools.lru_cache(maxsize=4)
def _compiled(template: str) -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=_now)
    return environment.from_string(template)


@contextlib.contextmanager
def _counted_steps() -> Iterator[None]:
    """Raise in the middle of a template that has taken too many steps. Counted in lines, so that a slow machine may
    take its time."""
    left = MOST_STEPS

    def step(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != _CODE_NAME:
            return None
        left -= event == "line"
        if left < 0:
            raise _TooManyStepsError(f"it is not done after {MOST_STEPS:,} steps")
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)


def _endless(error: BaseException) -> ModelLoadError:
    return ModelLoadError(
        f"The model's chat template does not come to an end ({error or type(error).__name__}). It is a "
        "program that came with the model: take the model from a source that you trust, or set chat=False."
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

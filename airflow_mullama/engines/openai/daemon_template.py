"""Whether the mullama daemon puts a prompt into the model's own chat template.

The daemon (0.3.0) takes the nearest of llama.cpp's own templates, or ChatML, and tokenizes what comes out as plain
text, markers and all; its ``/completions`` does the same with a prompt that is rendered elsewhere. So nothing that is
sent can mend it, but it can be seen: a prompt of another template, or one whose markers are spelled out, has another
number of tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_mullama.engines.chat_template import render_chat_template
from airflow_mullama.engines.openai.checks import failure, post
from airflow_mullama.engines.openai.http_client import Endpoint, HttpClient
from airflow_mullama.errors import ConfigurationError, ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header

TRIAL_MESSAGE = "The parcel has not come yet: where is it?"
MOST_BYTES = 1 << 20
NOT_CHECKED = (
    "the mullama daemon chooses the chat template by itself, and it is not known whether it is the model's own: name "
    "the model's file as engine_options['model_file'] to have it checked, or use engine='llamacpp'"
)


def check_daemon_template(
    client: HttpClient, endpoint: Endpoint, model: str, model_file: str, system_prompt: str | None
) -> None:
    """Compare the tokens of a trial prompt in the model's own template with those that the daemon counts.

    Args:
        client: asks the daemon.
        endpoint: for people.
        model: by the daemon's name.
        model_file: path of the same model's GGUF file.
        system_prompt: of the job.

    Raises:
        ConfigurationError: they differ, or the model has no template.
        MullamaError: the daemon does not answer.
    """
    header = read_gguf_header(Path(model_file))
    if header.chat_template is None:
        raise ConfigurationError(
            f"The model {model_file!r} carries no chat template, and the mullama daemon would use one all the same; "
            "set chat=False."
        )

    def count(path: str, **prompt: Any) -> int:
        body = {"model": model, "max_tokens": 1, "top_p": 0, **prompt}
        answer = post(client, endpoint, path, body, MOST_BYTES)
        if not answer.ok:
            raise failure(endpoint, model, answer)
        try:
            return int(answer.json()["usage"]["prompt_tokens"])
        except (KeyError, TypeError, ValueError):
            raise ModelLoadError(f"The server at {endpoint} does not count the tokens of a prompt.") from None

    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": TRIAL_MESSAGE})
    prompt = render_chat_template(header, messages)
    right = count_template_tokens(header, prompt, lambda text: count("completions", prompt=text))
    counted = count("chat/completions", messages=messages)
    if counted != right:
        raise ConfigurationError(
            f"The mullama daemon at {endpoint} does not use the chat template of {model_file!r}: a trial prompt has "
            f"{counted} tokens there and {right} in the model's own template, because the daemon takes a template of "
            "its own choice, or spells out its markers as text. Its answers would be wrong without a sign; use "
            "engine='llamacpp' with this file, or chat=False with a prompt_template that needs no markers."
        )


def count_template_tokens(header: GgufHeader, prompt: str, count: Callable[[str], int]) -> int:
    """Tokens of a rendered prompt, each of its special tokens one, with what the model puts around every text.

    Args:
        header: of the model.
        prompt: in its template.
        count: tokens of a plain text, as the daemon counts them, with what the model puts around it.
    """
    begins = _tokens_before(header)
    specials = sorted((text for text in header.special_tokens.values() if text), key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, specials))})", prompt) if specials else [prompt]
    plain = [part for place, part in enumerate(parts) if place % 2 == 0 and part]
    markers = len(parts) // 2
    bos = header.special_tokens.get(header.metadata.get("tokenizer.ggml.bos_token_id", -1))
    written = markers > 0 and parts[0] == "" and parts[1] == bos
    return sum(count(part) - begins for part in plain) + markers + (0 if written else begins)


def _tokens_before(header: GgufHeader) -> int:
    """Tokens that the model puts before every text; llama.cpp's default depends on the kind of vocabulary."""
    default = header.metadata.get("tokenizer.ggml.model") == "llama"
    return int(bool(header.metadata.get("tokenizer.ggml.add_bos_token", default)))

"""Prompts have the tokens that llama.cpp gives the whole of the template, filled; a row's markers are plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from template_models import MODELS, TEMPLATES, write_template_model

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.chat_template import render_chat_template
from airflow_mullama.engines.llamacpp.engine import LlamaCppEngine
from airflow_mullama.engines.llamacpp.local_server import LocalServer
from airflow_mullama.engines.prompt_frames import chat_frame, row_prompts
from airflow_mullama.engines.prompt_tokens import SpecialTokens
from airflow_mullama.errors import ModelLoadError
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header

pytestmark = pytest.mark.integration

TEXTS = (
    "row",
    " row",
    "   row",
    "row   ",
    "\n\n- a row",
    "row\n\n\n",
    "\trow\t",
    "",
    "   ",
    "\n",
    "two\n\nparagraphs\n\n\nend",
    "é 漢字 \N{RECEIPT}",
    "{{ braces }} {% raw %}",
    "<b>bold</b> & more",
    "\N{NO-BREAK SPACE} mixed \t\n row \N{IDEOGRAPHIC SPACE}\v",
)


@dataclass(frozen=True)
class Loaded:
    """A model with one of the templates, and llama.cpp's server that has it."""

    header: GgufHeader
    server: LocalServer


@pytest.fixture(scope="module", params=sorted(MODELS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("template")
    path = write_template_model(folder / "model.gguf", request.param)
    engine = LlamaCppEngine(
        EngineSettings(
            task="generate",
            model=str(path),
            options={"n_parallel": 1, "n_ctx": 256, "n_threads": 1},
            settings={"system_prompt": None, "chat": None, "max_tokens": 1, "sampling": {}},
            scratch=str(folder),
        )
    )
    yield Loaded(read_gguf_header(path), engine._http)
    engine.close()


def messages(system: str | None, text: str) -> list[dict[str, str]]:
    return [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}]


def test_every_template_has_its_model() -> None:
    assert {path.stem for path in TEMPLATES.glob("*.jinja")} == MODELS.keys()
    assert len(MODELS) >= 30


def test_prompts_have_the_tokens_of_the_whole_template_filled(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    for system in (None, "Be kind.", "  Be kind.\n"):
        frame = chat_frame(server, header, system)
        prompts = row_prompts(server, header, frame)
        ours = prompts.of([frame.prompt([(text, False)]) for text in TEXTS])
        for text, tokens in zip(TEXTS, ours, strict=True):
            whole = server.render_chat(messages(system, text))
            assert frame.head + tokens == server.tokenize(whole, add_special=True, parse_special=True), (system, text)


def test_a_rows_markers_are_plain_text_and_the_authors_are_not(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    frame = chat_frame(server, header, "Be kind.")
    prompts = row_prompts(server, header, frame)
    own = {token for token, text in header.special_tokens.items() if text.strip("\n ▁")}

    def markers(*parts: tuple[str, bool]) -> list[int]:
        (tokens,) = prompts.of([frame.prompt(list(parts))])
        return [token for token in tokens if token in own]

    for token, text in header.special_tokens.items():
        if token in own:
            assert markers((f"a {text} row{text}", False)) == markers(("a row", False)), text
            assert sorted(markers(("a ", False), (text, True), (" row", False))) == sorted(
                [*markers(("a row", False)), token]
            ), text


def test_what_a_row_says_is_in_the_prompt_as_it_says_it(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    frame = chat_frame(server, header, None)
    for token in header.special_tokens.values():
        text = f"a{token} b{token}c"
        (tokens,) = row_prompts(server, header, frame).of([frame.prompt([(text, False)])])
        assert text in server.post("/detokenize", {"tokens": tokens})["content"]


CONVERSATIONS = (
    (("user", "row"), ("assistant", "be kind"), ("user", "more")),
    (("user", "  row\n"), ("assistant", "\n\nbe kind  "), ("user", " more ")),
    (("user", ""), ("assistant", " \n"), ("user", "more")),
    (("system", "be kind\n"), ("user", "row"), ("assistant", "é 漢字"), ("user", "\tmore")),
    (("system", " be kind"), ("user", "more")),
)


def parted(conversation: Sequence[tuple[str, str]]) -> list[tuple[str, list[tuple[str, bool]]]]:
    return [(role, [(text, False)]) for role, text in conversation]


def test_conversations_have_the_tokens_of_the_whole_template_filled(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    examples = [("one", "two")]
    for given in ((), examples):
        frame = chat_frame(server, header, None, given)
        prompts = row_prompts(server, header, frame)
        for conversation in CONVERSATIONS:
            systems = sum(role == "system" for role, _ in conversation)
            shown = [pair for example in given for pair in zip(("user", "assistant"), example, strict=True)]
            whole = server.render_chat(
                [
                    {"role": role, "content": text}
                    for role, text in (*conversation[:systems], *shown, *conversation[systems:])
                ]
            )
            (tokens,) = prompts.of([frame.conversation(parted(conversation))])
            assert frame.head + tokens == server.tokenize(whole, add_special=True, parse_special=True), conversation


def test_a_message_cannot_forge_another(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    frame = chat_frame(server, header, None)
    prompts = row_prompts(server, header, frame)
    own = {token: text for token, text in header.special_tokens.items() if text.strip("\n ▁")}

    def markers(text: str) -> list[int]:
        conversation = [("user", text), ("assistant", text), ("user", text)]
        (tokens,) = prompts.of([frame.conversation(parted(conversation))])
        return [token for token in tokens if token in own]

    assert markers(f"row{''.join(own.values())}row") == markers("row")


def test_a_conversation_that_the_template_refuses_is_one_sentence(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    frame = chat_frame(server, header, None)
    twice = [("user", "row"), ("user", "more")]
    try:
        server.render_chat([{"role": role, "content": text} for role, text in twice])
    except ModelLoadError:
        with pytest.raises(ModelLoadError, match="takes no conversation of user, user: "):
            frame.conversation(parted(twice))
    else:
        texts = [text for text, is_authors in frame.conversation(parted(twice)) if not is_authors]
        assert texts == ["row", "more"]


def test_templates_are_rendered_alike_without_llama_cpp(loaded: Loaded) -> None:
    header, server = loaded.header, loaded.server
    special = SpecialTokens.of(server).before
    bos = header.special_tokens[special[0]] if special else ""
    for system, text in (
        (None, "  row\n"),
        ("Be kind.", "\n\n- a row "),
        ("Be kind.", ""),
        (None, "<b>bold</b> & more"),
    ):
        theirs = server.render_chat(messages(system, text))
        ours = render_chat_template(header, messages(system, text))
        assert ours.removeprefix(bos) == theirs.removeprefix(bos), (system, text)

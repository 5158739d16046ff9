"""Keys: whatever spelling of one comes back, it is not shown."""

from __future__ import annotations

import base64
import html
import json
import pickle
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mullama.redaction import credentials
from airflow_mullama.redaction.credentials import Secret, blot, spellings

KEY = "sk-not/a+real=key&1234"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON's escaped slash": lambda key: key.replace("/", "\\/"),
    "JSON's escapes": lambda key: "".join(f"\\u{ord(character):04x}" for character in key),
    "JSON in JSON": lambda key: json.dumps(json.dumps({"key": key})),
    "percent-encoded": lambda key: quote(key, safe=""),
    "in small letters": lambda key: re.sub("%..", lambda match: match[0].lower(), quote(key, safe="")),
    "percent-encoded twice": lambda key: quote(quote(key, safe=""), safe=""),
    "HTML": html.escape,
    "HTML by number": lambda key: "".join(f"&#x{ord(character):x};" for character in key),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 of URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "a header in base64": lambda key: base64.b64encode(f"Bearer {key}\n".encode()).decode(),
    "base64 behind two letters": lambda key: base64.b64encode(f"u:{key}".encode()).decode(),
}


@pytest.fixture(autouse=True, scope="module")
def _no_key_is_remembered_afterwards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(credentials, "_keys", {})
        patch.setattr(credentials, "_patterns", ())
        yield


def readable_parts(key: str) -> list[str]:
    """What must not be left of a key: any six characters that follow each other, plain or in base64."""
    packed = base64.b64encode(key.encode()).decode().rstrip("=")
    return [text[place : place + 6] for text in (key, packed) for place in range(len(text) - 5)]


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_key_is_blotted_out_in_every_spelling(spelling: Callable[[str], str]) -> None:
    Secret(KEY)
    shown = blot(f"the key {spelling(KEY)} is wrong")
    assert "***" in shown
    assert not [part for part in readable_parts(KEY) if part in shown]
    assert shown.startswith("the key ")
    assert shown.endswith(" is wrong")


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=300), st.data())
def test_any_key_is_blotted_out(key: str, data: st.DataObject) -> None:
    Secret(key)
    spelling = data.draw(st.sampled_from(sorted(SPELLINGS)))
    shown = blot(SPELLINGS[spelling](key))
    assert "***" in shown
    assert key not in shown


def test_a_long_token_is_blotted_out_to_its_end() -> None:
    token = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9." + "Q29udGVudA" * 100
    Secret(token)
    assert blot(f'{{"token": "{token}", "error": "expired"}}') == '{"token": "***", "error": "expired"}'


def test_one_key_that_holds_another_is_blotted_out_whole() -> None:
    Secret("abcdefgh")
    Secret("abcdefgh-and-more")
    assert blot("abcdefgh-and-more abcdefgh") == "*** ***"


def test_what_is_too_short_to_be_a_secret_leaves_words_alone() -> None:
    Secret("none")
    assert blot("there is none") == "there is none"


def test_a_secret_is_a_text_that_is_not_shown() -> None:
    secret = Secret("hunter2hunter2")
    assert repr({"key": secret}) == "{'key': '***'}"
    assert secret == "hunter2hunter2"
    assert repr(pickle.loads(pickle.dumps(secret))) == "'***'"


def test_the_commonest_spellings_are_listed_for_who_looks_for_texts() -> None:
    listed = spellings(KEY)
    wanted = ("plain", "JSON's escaped slash", "percent-encoded", "base64", "base64 of URLs")
    assert {SPELLINGS[name](KEY) for name in wanted} <= set(listed)
    assert len(listed) == len(set(listed))

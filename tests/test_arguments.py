from __future__ import annotations

from typing import Any

import pytest

from airflow_mullama import EmbedJob, GenerateJob, run_partition
from airflow_mullama.arguments import (
    Check,
    Number,
    OneOf,
    OrNone,
    Whole,
    from_text,
    refuse_url,
    require,
    require_one_of_two,
)
from airflow_mullama.errors import ConfigurationError, MullamaError


@pytest.mark.parametrize(
    ("check", "good", "bad", "sentence"),
    [
        (Whole(1, 9), [1, 9], [0, 10, True, 1.0, "1", None], "a whole number from 1 to 9"),
        (Whole(0), [0, 10**20], [-1, False, None], "a whole number from 0"),
        (Number(0.0, 1.0), [0, 0.5, 1], [-0.1, float("nan"), True, None], "a number from 0 to 1"),
        (OneOf(("a", "b")), ["a"], ["c", None, 1], "one of 'a', 'b'"),
        (OneOf((1,)), [1], [True, 1.0], "one of 1"),
        (OrNone(Whole(1)), [1, None], [0, "x"], "a whole number from 1, or None"),
        (OrNone(OneOf(("a",))), ["a", None], ["", "b"], "one of 'a', or None"),
    ],
)
def test_an_argument_is_what_it_may_be_or_is_named_with_its_value(
    check: Check, good: list[Any], bad: list[Any], sentence: str
) -> None:
    for value in good:
        require("it", value, check)
    for value in bad:
        with pytest.raises(ConfigurationError) as caught:
            require("it", value, check)
        assert str(caught.value) == f"it is {value!r}; it must be {sentence}."


@pytest.mark.parametrize(
    ("text", "check", "meant"),
    [
        ("64", Whole(1), 64),
        ("-1", Whole(-1), -1),
        ("64.0", Whole(1), "64.0"),
        ("1_000", Whole(1), "1_000"),
        ("٣", Whole(1), "٣"),
        ("many", Whole(1), "many"),
        ("1", Number(0.0, 1.0), 1),
        ("0.25", Number(0.0, 1.0), 0.25),
        ("1e-05", Number(0.0, 1.0), 1e-05),
        ("nan", Number(0.0, 1.0), "nan"),
        ("", Number(0.0, 1.0), ""),
        ("True", OneOf((True, False)), True),
        ("f16", OneOf(("f16", "q8_0")), "f16"),
        ("None", OrNone(Whole(1)), None),
        ("2", OrNone(Whole(1)), 2),
        (3, Whole(1), 3),
    ],
)
def test_a_text_counts_as_what_it_stands_for_or_stays_what_it_is(text: object, check: Check, meant: object) -> None:
    found = from_text(text, check)
    assert (type(found), found) == (type(meant), meant)


def test_exactly_one_of_two_is_given() -> None:
    require_one_of_two("a", 0, "b", None)
    for both in ((None, None), (0, "")):
        with pytest.raises(ConfigurationError, match="Give either a or b, exactly one of the two"):
            require_one_of_two("a", both[0], "b", both[1])


@pytest.mark.parametrize("url", ["s3://KEY:SECRET@b/k", "https://h/x?sig=SECRET", "file:///SECRET"])
def test_a_url_is_no_path_and_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="it is a URL") as caught:
        refuse_url("it", url)
    assert "SECRET" not in str(caught.value)
    for path in (None, "a/b", "/a:b/c", "C:/x", "a//b"):
        refuse_url("it", path)


@pytest.mark.parametrize("url", ["s3://KEY:SECRET@b/k", "https://h/x?sig=SECRET&x="])
@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt_template": "{url}.txt"},
        {"prompt_column": "text", "system_prompt": "{url}.md"},
        {"prompt_column": "text", "output_schema": "{url}.json"},
        {"prompt_column": "text", "examples": "{url}.json"},
        {"prompt_column": "text", "engine_options": {"endpoint": "http://h", "ca_file": "{url}.pem"}},
        {"text_column": "text", "engine_options": {"endpoint": "http://h", "tokenizer": "{url}/tokenizer.json"}},
        {"text_column": "text", "engine": "llamacpp", "engine_options": {"tokenizer": "{url}/tokenizer.json"}},
    ],
)
def test_no_argument_that_names_a_file_shows_the_key_in_a_url(
    arguments: dict[str, Any], url: str, tmp_path: Any, write_parquet: Any
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(inner) for name, inner in value.items()}
        return value.replace("{url}", url) if isinstance(value, str) else value

    source = write_parquet(tmp_path / "in.parquet", ["a"])
    engine = arguments.get("engine", "openai")
    model = "m" if engine == "openai" else "demo:ticket-tagger"
    kind = EmbedJob if "text_column" in arguments else GenerateJob
    with pytest.raises(MullamaError, match="is a URL") as caught:
        run_partition(kind(**{"model": model, "engine": engine, **filled(arguments)}), source, tmp_path / "out.parquet")
    assert "SECRET" not in str(caught.value)

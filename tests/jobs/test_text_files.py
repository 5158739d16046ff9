from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mullama import EmbedJob, GenerateJob
from airflow_mullama.errors import ConfigurationError
from airflow_mullama.jobs.text_files import MOST_BYTES, names_a_text_file


@pytest.mark.parametrize(
    ("value", "is_name"),
    [
        ("prompts/tag.txt", True),
        ("/srv/prompts/tag.md", True),
        ("tag.jinja", True),
        (Path("my prompts") / "tag", True),
        ("Read the file readme.md", False),
        ("{name}.txt", False),
        ("tag.txt\n", False),
        ("tag", False),
        (".txt", False),
        (None, False),
        (5, False),
    ],
)
def test_what_is_a_files_name_shows_in_the_argument(value: object, is_name: bool) -> None:
    assert names_a_text_file(value) is is_name


def test_prompts_are_read_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tag.txt").write_bytes(b"\xef\xbb\xbfTag this:\r\n{text}\r\n")
    (tmp_path / "kind system.md").write_text("Be kind.\n\n")
    monkeypatch.chdir(tmp_path)
    job = GenerateJob(model="echo", prompt_template="tag.txt", system_prompt=tmp_path / "kind system.md")
    assert job.prompt_template == "Tag this:\n{text}"
    assert job.system_prompt == "Be kind.\n"
    assert EmbedJob(model="echo", text_template="tag.txt").template.columns == ("text",)


def test_a_file_counts_by_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "tag.txt").write_text("Tag this: {text}\n")
    jobs = [GenerateJob(model="echo", prompt_template=text) for text in (tmp_path / "tag.txt", "Tag this: {text}")]
    assert len({job.request_fingerprint(model_sha256="0") for job in jobs}) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "prompt_template is '.*tag.txt', which names a file, and there is none at '.*': correct the path, or"),
        (b"\xff{text}", "prompt_template: the file '.*' is no UTF-8 text"),
        (b" " * (MOST_BYTES + 1), "prompt_template: the file '.*' has more than 16 MB"),
    ],
)
def test_a_file_that_is_no_prompt_is_one_sentence(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "tag.txt").write_bytes(content)
    with pytest.raises(ConfigurationError, match=sentence):
        GenerateJob(model="echo", prompt_template=str(tmp_path / "tag.txt"))

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from airflow_mullama.engines.llamacpp.completions import Written
from airflow_mullama.engines.llamacpp.http_completions import HttpCompletions
from airflow_mullama.engines.llamacpp.local_server import LocalServer


class Answering(LocalServer):
    """Gives an answer that ends in a certain way."""

    def __init__(self, stop_type: str) -> None:
        super().__init__("nowhere", "key")
        self.stop_type = stop_type

    def another(self) -> LocalServer:
        return self

    def ask(self, path: str, body: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        return {"content": "Red, and", "stop_type": self.stop_type, "tokens_evaluated": 9, "tokens_predicted": 3}


@pytest.mark.parametrize(
    ("stop_type", "cut"), [("eos", False), ("word", False), ("limit", True), ("none", True), ("new", True)]
)
def test_only_an_end_that_the_model_chose_makes_an_answer_whole(stop_type: str, *, cut: bool) -> None:
    written = HttpCompletions(Answering(stop_type), None).ask({"prompt": "?"}, None)
    assert isinstance(written, Written)
    assert written.cut is cut

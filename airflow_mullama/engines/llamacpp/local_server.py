"""The part of llama.cpp's server that xllamacpp reaches only over HTTP: tokenizing and rendering chat templates.

The server listens on a socket file in a folder that only this user may enter, and asks for a key besides: nobody can
see another user's prompts in it (xllamacpp always opens a listener; a TCP port would be open to all on the host).
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow_mullama.engines.chat_template import remedy
from airflow_mullama.engines.prompt_tokens import NO_ARGUMENTS
from airflow_mullama.errors import ModelLoadError

TIMEOUT_SECONDS = 300.0
# Behind this, a message of llama.cpp quotes what a template raised.
TEMPLATE_SAYS = "Jinja Exception: "


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, socket_path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._socket_path)


class LocalServer:
    """A keep-alive connection to the server in this process. For one thread at a time.

    Args:
        socket_path: of the listener.
        api_key: that it was started with.
    """

    def __init__(self, socket_path: str, api_key: str) -> None:
        self._connection = _SocketConnection(socket_path)
        self._address = socket_path, api_key
        self._separator: int | None = None
        self._check_conversation: Callable[[Sequence[dict[str, str]], Mapping[str, Any]], None] | None = None
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def another(self) -> LocalServer:
        """A connection for another thread."""
        return LocalServer(*self._address)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send JSON, get JSON.

        Raises:
            ModelLoadError: the server answers with an error; its message is in it.
        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            answer = self._request(path, content)
        except (http.client.HTTPException, ConnectionError):
            self._connection.close()  # the server closed an idle connection: once more on a new one
            answer = self._request(path, content)
        value = json.loads(answer)
        if "error" in value:
            raise ModelLoadError(f"llama.cpp refuses {path}: {value['error'].get('message', value['error'])}")
        assert isinstance(value, dict)
        return value

    def ask(self, path: str, body: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        """Send JSON and get JSON, an error too.

        Args:
            path: of the route.
            body: of the request.
            seconds: that the answer may take; ``None`` for no limit.

        Raises:
            TimeoutError: it takes longer; the connection is closed, which ends the work.
            OSError, http.client.HTTPException: none came.
        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        try:
            answer = self._request_within(path, content, seconds)
        except TimeoutError:
            self._connection.close()
            raise
        except (http.client.HTTPException, ConnectionError):
            self._connection.close()  # the server closed an idle connection: once more on a new one
            answer = self._request_within(path, content, seconds)
        value = json.loads(answer)
        assert isinstance(value, dict)
        return value

    def _request_within(self, path: str, content: bytes, seconds: float | None) -> bytes:
        if self._connection.sock is None:
            self._connection.connect()
        self._connection.sock.settimeout(seconds)
        return self._request(path, content)

    def properties(self) -> dict[str, Any]:
        """What the server says of itself and of its model."""
        value = json.loads(self._get("/props"))
        assert isinstance(value, dict)
        return value

    def wait_until_it_works(self) -> None:
        """Wait for the thread that computes: a server that is ended before that has begun never ends.

        xllamacpp says that a server is ready just before (``out.set_value(0)`` in its server.cpp). The list of slots is
        an answer that only this thread gives.
        """
        self._get("/slots")

    def _get(self, path: str) -> bytes:
        self._connection.request("GET", path, headers=self._headers)
        return self._connection.getresponse().read()

    def _request(self, path: str, content: bytes) -> bytes:
        self._connection.request("POST", path, content, self._headers)
        return self._connection.getresponse().read()

    def tokenize(self, content: object, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text, or of a list of texts and token ids, one after the other."""
        answer = self.post(
            "/tokenize", {"content": content, "add_special": add_special, "parse_special": parse_special}
        )
        tokens: list[int] = answer["tokens"]
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens, those that are not text written out."""
        return str(self.post("/detokenize", {"tokens": list(tokens)})["content"])

    def render_chat(self, messages: Sequence[dict[str, str]], arguments: Mapping[str, Any] = NO_ARGUMENTS) -> str:
        """The model's chat template, filled, up to where the answer begins.

        Raises:
            ModelLoadError: it does not render.
        """
        if self._check_conversation is not None:
            self._check_conversation(messages, arguments)
        body = {"messages": list(messages), **({"chat_template_kwargs": dict(arguments)} if arguments else {})}
        try:
            return str(self.post("/apply-template", body)["prompt"])
        except ModelLoadError as error:
            said = str(error).rpartition(TEMPLATE_SAYS)[2]
            raise ModelLoadError(f"The model's chat template does not render ({said}){remedy(arguments)}.") from error

    def check_conversations(self, check: Callable[[Sequence[dict[str, str]], Mapping[str, Any]], None]) -> None:
        """Have each conversation looked at before it is rendered, which the server does for as long as it takes.

        Args:
            check: raises ModelLoadError.
        """
        self._check_conversation = check

    def use_separator(self, candidates: Mapping[int, str]) -> None:
        """Choose what stands between texts that are tokenized in one call: a token that no plain text gives.

        Args:
            candidates: texts of tokens by their ids.
        """
        self._separator = next((token for token, text in candidates.items() if token not in self.tokenize(text)), None)

    def tokenize_each(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many plain texts: in one call, if there is a separator."""
        separator = self._separator
        if separator is None:
            return [self.tokenize(text) for text in texts]
        each: list[list[int]] = [[]]
        for token in self.tokenize([item for text in texts for item in (text, separator)]):
            if token == separator:
                each.append([])
            else:
                each[-1].append(token)
        each.pop()
        if len(each) != len(texts):
            raise ModelLoadError("llama.cpp's tokenizer gave a control token for plain text.")
        return each

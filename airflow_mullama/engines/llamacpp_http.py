"""The part of llama.cpp's server that xllamacpp reaches only over HTTP: tokenizing and rendering chat templates.

The server listens on a socket file in a folder that only this user may enter, and asks for a key besides: nobody else
can see other people's prompts in it (xllamacpp always opens a listener; a TCP port would be open to all on the host).
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Sequence
from typing import Any

from airflow_mullama.errors import ModelLoadError

TIMEOUT_SECONDS = 300.0


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
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

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

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's chat template, filled, up to where the answer begins."""
        return str(self.post("/apply-template", {"messages": list(messages)})["prompt"])

    def tokenize_each(self, texts: Sequence[str | list[str]], separator: int) -> list[list[int]]:
        """Token ids of many plain texts in one call.

        Args:
            texts: each a text, or pieces of one that must not be matched across their borders.
            separator: a control token's id. Plain text never gives one, so it marks where a text ends.
        """
        content: list[str | int] = []
        for text in texts:
            content.extend([text] if isinstance(text, str) else text)
            content.append(separator)
        each: list[list[int]] = [[]]
        for token in self.tokenize(content):
            if token == separator:
                each.append([])
            else:
                each[-1].append(token)
        each.pop()
        if len(each) != len(texts):
            raise ModelLoadError("llama.cpp's tokenizer gave a control token for plain text.")
        return each

"""A server that a text ends: ``python mortal_server.py PORT``. It answers soundly, and leaves when a text says so.

What it was asked is appended to the file that ``MORTAL_SERVER_LOG`` names.
"""

from __future__ import annotations

import os
import sys
import threading

from openai_server import Asked, Reply, ScriptedServer, error

POISON, NEVER = "poison", "never answered"


def answer(asked: Asked) -> Reply | None:
    if asked.body is None:
        return None
    texts = asked.body.get("input") or [asked.text]
    with open(os.environ["MORTAL_SERVER_LOG"], "a") as log:
        log.writelines(f"{text}\n" for text in texts)
    if any(POISON in text for text in texts):
        os._exit(1)
    if any(NEVER in text for text in texts):
        return error(500, "it never works")
    return None


if __name__ == "__main__":
    ScriptedServer(answer, port=int(sys.argv[1]))
    threading.Event().wait()

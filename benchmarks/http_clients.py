"""What one request of the engine `openai` costs in its own HTTP client and in others, and whether a time limit holds.

CPU seconds of the thread that asks, so that neither the server nor other work on the machine counts. The limit is tried
with a server that sends one more header every tenth of a second: what outlasts four times its limit is called endless.
The peers are installed with Airflow.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable

import httpx
import urllib3

from airflow_mullama.engines.openai.http_client import Endpoint, HttpClient

BODY = {"model": "m", "messages": [{"role": "user", "content": "y" * 500}]}
LIMIT_SECONDS = 0.5
SERVER = r"""
import socket, sys, threading, time
text = b'{"choices":[{"message":{"role":"assistant","content":"' + b"x" * 400 + b'"}}]}'
answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text
def serve(connection):
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(rest) < length:
            rest += connection.recv(65536)
        data = rest[length:]
        if b"/drip" in head:
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for _ in range(50):
                connection.sendall(b"X-A: b\r\n")
                time.sleep(0.1)
            return
        connection.sendall(answer)
def quietly(connection):
    try:
        serve(connection)
    except OSError:
        pass
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=quietly, args=(listener.accept()[0],), daemon=True).start()
"""


def clients(port: int) -> dict[str, Callable[[str], object]]:
    """By name, what asks for a path once, each with the same time limit set in its own way."""
    base, content = f"http://127.0.0.1:{port}", json.dumps(BODY).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Authorization": "Bearer key"}
    ours = HttpClient(Endpoint.parse(f"{base}/v1"), None, 600.0, 0.0, None)
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_SECONDS)
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port, timeout=urllib3.Timeout(total=LIMIT_SECONDS), retries=False)
    client = httpx.Client(trust_env=False, timeout=LIMIT_SECONDS)

    def ask_plainly(path: str) -> bytes:
        plain.request("POST", path, content, headers)
        return plain.getresponse().read()

    return {
        "this package": lambda path: ours.post(path, BODY, 1 << 20, time.monotonic() + LIMIT_SECONDS),
        "http.client": ask_plainly,
        "urllib3": lambda path: pool.request("POST", path, body=content, headers=headers).data,
        "httpx": lambda path: client.post(base + path, content=content, headers=headers).content,
    }


def cpu_seconds(ask: Callable[[str], object], requests: int) -> float:
    """Of one request, the least of three series."""
    best = float("inf")
    for _ in range(3):
        ask("/v1/x")
        before = time.thread_time()
        for _ in range(requests):
            ask("/v1/x")
        best = min(best, (time.thread_time() - before) / requests)
    return best


def seconds_of_a_drip(ask: Callable[[str], object]) -> float:
    before = time.perf_counter()
    with contextlib.suppress(Exception):
        ask("/drip")
    return time.perf_counter() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    requests = parser.parse_args().requests
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            asks = clients(int(server.stdout.readline()))
            limit = cpu_seconds(asks["http.client"], requests)
            for name, ask in asks.items():
                cost, dripped = cpu_seconds(ask, requests), seconds_of_a_drip(ask)
                held = f"{dripped:.1f} s" if dripped < 4 * LIMIT_SECONDS else "endless"
                print(
                    f"{name}: {cost * 1e6:.0f} us of CPU a request, {cost / limit:.2f} times http.client; a drip of "
                    f"headers with a limit of {LIMIT_SECONDS} s: {held}"
                )
        finally:
            server.kill()


if __name__ == "__main__":
    main()

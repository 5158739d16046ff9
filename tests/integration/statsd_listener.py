"""What Airflow sends to StatsD, kept."""

from __future__ import annotations

import socket
import threading


class StatsdListener:
    """Keeps what is sent to a UDP port."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._arrived = threading.Condition()
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> StatsdListener:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", self.port))  # an empty datagram ends it
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while datagram := self._socket.recv(65_536):
            with self._arrived:
                self._lines.extend(datagram.decode().splitlines())
                self._arrived.notify_all()

    def wait_for(self, name: str) -> None:
        """Wait until something of this name has come."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: any(line.startswith(name) for line in self._lines), timeout=60)

    def lines(self) -> list[str]:
        """``name,tag=value,…:number|kind``, in the order in which they came."""
        with self._arrived:
            return list(self._lines)

    def values(self, task_id: str) -> dict[str, float]:
        """The numbers of one task of the DAG ``watched``, by name; those sent more than once are added up."""
        found: dict[str, float] = {}
        for line in self.lines():
            name, _, value = line.partition(":")
            name, *tags = name.split(",")
            if name.startswith("airflow.mullama.") and {"dag_id=watched", f"task_id={task_id}"} <= set(tags):
                name = name.removeprefix("airflow.mullama.")
                found[name] = found.get(name, 0.0) + float(value.split("|")[0])
        return found

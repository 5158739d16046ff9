"""Prints what the installed llama.cpp was built for and what it would compute on, as one JSON line.

``airflow-mullama doctor`` runs it in a process of its own: looking for GPUs loads drivers, which may fail in ways that
end the process.
"""

from __future__ import annotations

import json
import sys

from airflow_mullama.child_process import end_with_parent


def main() -> None:
    """Print ``system``, llama.cpp's own words of what it was built for, and ``devices``: each with ``name``,
    ``description``, ``type`` and ``free`` (bytes)."""
    import xllamacpp

    devices = [
        {**{name: str(device[name]) for name in ("name", "description", "type")}, "free": int(device["memory_free"])}
        for device in xllamacpp.get_device_info()
    ]
    sys.stdout.write(json.dumps({"system": xllamacpp.get_system_info(), "devices": devices}) + "\n")


if __name__ == "__main__":
    end_with_parent(pipe=0)
    main()

"""The environment that the demo's Airflow runs in, and the secrets of its home."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from airflow_mullama.child_process import import_path

HOST: Final = "127.0.0.1"


def airflow_environment(
    home: Path, *, dags: Path, url: str, parallelism: int, further: Mapping[str, str]
) -> dict[str, str]:
    """The environment of the components: this process's, without anything that belongs to another Airflow.

    A database, a connection or a setting of the user's own Airflow must not be touched by a demo.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "_AIRFLOW_")) or name.startswith("AIRFLOW_MULLAMA_")
    }
    loopback = f"{HOST},localhost"
    keys = _secrets(home)
    return {
        **environment,
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), environment.get("PATH", os.defpath)]),
        "PYTHONPATH": import_path(),
        "PYTHONSAFEPATH": "1",  # Python 3.11 and newer import nothing from the current directory, whoever starts them
        "PYTHONUNBUFFERED": "1",
        # A proxy that the environment names cannot reach this machine's own API server.
        "NO_PROXY": ",".join(filter(None, [environment.get("NO_PROXY") or environment.get("no_proxy"), loopback])),
        "no_proxy": ",".join(filter(None, [environment.get("no_proxy") or environment.get("NO_PROXY"), loopback])),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": keys["api"],
        "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(parallelism),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # A task's end is noticed at its next heartbeat: by default that costs each task seconds.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        **further,
    }


def _secrets(home: Path) -> dict[str, str]:
    """Keys of this home, made once, readable by their owner only."""
    path = home / "secrets.json"
    if not path.is_file():
        keys = {
            "api": secrets.token_hex(32),
            "jwt": secrets.token_hex(32),
            "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        temporary = path.with_name(".secrets.json")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(keys, file)
        temporary.replace(path)
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded

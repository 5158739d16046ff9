"""What is done when a server goes away with rows in flight: it is waited for, and nobody's row is blamed unheard.

A text can end a server: then every row that it had fails, whoever's fault it is. So the worker leaves, as it would with
an engine of our own that crashed; the next one waits for the server, and its rows are asked again one by one.
"""

from __future__ import annotations

import time

from airflow_mullama.engines.base import EngineLostError
from airflow_mullama.engines.openai.checks import unreachable
from airflow_mullama.engines.openai.http_client import Endpoint, HttpClient, OverdueError, TransportError
from airflow_mullama.errors import EndpointUnavailableError

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0


def raise_if_server_is_gone(client: HttpClient, error: TransportError) -> None:
    """Find out whether a server that gave no answer is still there; if so, that is one row's own matter.

    Args:
        client: asks it for its models; any answer will do.
        error: how the answer failed to come.

    Raises:
        EngineLostError: it is gone.
    """
    if _failure_of(client) is not None:
        raise EngineLostError(f"lost its server ({error})")


def wait_for_server(client: HttpClient, endpoint: Endpoint, max_wait: float) -> None:
    """Wait until a server that went away with rows in flight is back.

    Args:
        client: asks it for its models; any answer will do.
        endpoint: for people.
        max_wait: seconds, as for one that answers 503.

    Raises:
        EndpointUnavailableError: it did not come back in time.
    """
    until = time.monotonic() + max_wait
    pause = FIRST_PAUSE_SECONDS
    while (error := _failure_of(client)) is not None:
        left = until - time.monotonic()
        if left <= 0:
            raise EndpointUnavailableError(
                f"{unreachable(endpoint, error)} It went away with rows in flight and was waited for during "
                f"{max_wait:g} s (engine_options['max_wait']). What is finished is kept; the next attempt asks those "
                "rows last and one by one, so that one that ends the server is found."
            )
        time.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _failure_of(client: HttpClient) -> TransportError | None:
    try:
        client.get("models")
    except OverdueError:
        return None  # it is busy, and there
    except TransportError as error:
        return error
    return None

"""What Airflow registers: two tabs in its UI, and the application that serves their page.

Every component of Airflow imports this, the scheduler and each task too, so it imports next to nothing. Only the API
server answers requests, and the application is made with the first request.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from airflow_mullama.plugin.routes import DARK_ICON, ICON, RUN_PAGE, RUN_ROUTE, TASK_PAGE, TASK_ROUTE, URL_PREFIX


class LazyApplication:
    """An ASGI application that is imported when it is first asked for something."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        from airflow_mullama.plugin.application import application

        await application()(scope, receive, send)


def _tab(destination: str, url_route: str, page: str, **parameters: str) -> dict[str, str]:
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    # Relative, so that the page is found below the path of `[api] base_url`: Airflow's UI sets <base> to it.
    folder = URL_PREFIX.lstrip("/")
    return {
        "name": "Mullama",
        "destination": destination,
        "url_route": url_route,
        "href": f"{folder}/{page}?{query}",
        "icon": f"{folder}/{ICON}",
        "icon_dark_mode": f"{folder}/{DARK_ICON}",
    }


class MullamaPlugin(AirflowPlugin):
    """The tabs of a task instance and of a run."""

    name = "mullama"
    fastapi_apps: ClassVar[list[Any]] = [{"name": "Mullama", "app": LazyApplication(), "url_prefix": URL_PREFIX}]  # type: ignore[misc]
    external_views: ClassVar[list[Any]] = [  # type: ignore[misc]
        _tab(
            "task_instance",
            TASK_ROUTE,
            TASK_PAGE,
            dag="{DAG_ID}",
            run="{RUN_ID}",
            task="{TASK_ID}",
            map_index="{MAP_INDEX}",  # stays as it is for a task that is not mapped
        ),
        _tab("dag_run", RUN_ROUTE, RUN_PAGE, dag="{DAG_ID}", run="{RUN_ID}"),
    ]

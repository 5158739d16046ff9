"""An Airflow with a user who may see tasks and not what they left."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

OUTSIDER = "outsider"


class GuardedAuthManager(SimpleAuthManager):
    """Keeps XComs from one user."""

    def is_authorized_dag(self, *, user: Any, access_entity: Any = None, **details: Any) -> bool:
        if user.username == OUTSIDER and access_entity is DagAccessEntity.XCOM:
            return False
        return super().is_authorized_dag(user=user, access_entity=access_entity, **details)

"""The plugin as the entry point ``airflow.plugins`` names it.

Airflow reads plugins from providers' own descriptions only where it discovers providers at once (``[core]
lazy_discover_providers = False``), and from entry points always. Found both ways, a plugin would be listed as an import
error and, in a task, hide the plugins after it; so where the description is read, the entry point is empty.
"""

from __future__ import annotations

from airflow import settings

from airflow_mullama.plugin.registration import MullamaPlugin

plugin: type[MullamaPlugin] | None = MullamaPlugin if settings.LAZY_LOAD_PROVIDERS else None

"""The installed mullama bindings: found, or refused with what to do."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from airflow_mullama.errors import ModelLoadError


def import_bindings() -> Any:
    """The package ``mullama``.

    Raises:
        ModelLoadError: it is installed and does not load; says why, where that is known.
    """
    try:
        import mullama
    except ImportError as error:
        raise ModelLoadError(
            f"The mullama bindings are installed and do not load ({error}){_remedy(error)}."
        ) from error
    return mullama


def _remedy(error: ImportError) -> str:
    # Rust 1.90 and newer link with a linker of their own, which leaves out what GCC compiled for its own link-time
    # optimization: all of llama.cpp. The wheel builds all the same.
    if "undefined symbol" in str(error):
        return 'they were linked without llama.cpp; build them again with RUSTFLAGS="-C linker-features=-lld"'
    if "GLIBC" in str(error) or "cannot open shared object file" in str(error):
        return "they were built on another machine; build them on this one"
    return "build them for this Python"


def installed_version(mullama: Any) -> str:
    """Of the package, or what the module says where it was put there without one."""
    try:
        return importlib.metadata.version("mullama")
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(mullama, "__version__", "unknown"))

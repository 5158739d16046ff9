"""The engines there are, and which one ``auto`` means."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_mullama.engines.base import Engine, EngineSettings
from airflow_mullama.engines.options import Check, Secret, validate_options
from airflow_mullama.errors import ConfigurationError, EngineNotAvailableError
from airflow_mullama.models.gguf_header import GgufHeader

ModelCheck = Callable[[str, Mapping[str, Any], Mapping[str, Any], GgufHeader, str], None]
VectorLength = Callable[[Mapping[str, Any], GgufHeader, str], int | None]


def _accept_any_model(
    task: str, settings: Mapping[str, Any], options: Mapping[str, Any], header: GgufHeader, name: str
) -> None:
    """For engines that know no model files."""


def _vector_length_of_header(options: Mapping[str, Any], header: GgufHeader, name: str) -> int | None:
    return header.embedding_length


@dataclass(frozen=True)
class EngineSpec:
    """What is known of an engine without loading it.

    Args:
        name: as users write it.
        package: the import name it needs; ``None`` if it needs none.
        install: how to get that package, for the error message.
        needs_model_file: whether ``model`` is a GGUF file that this package resolves and hashes.
        checks: what each of its ``engine_options`` may be.
        output_options: those that can change an outcome, so that they belong to the fingerprint.
        start: builds the engine, inside the worker.
        check_model: refuses a model that cannot do the task; gets task, job settings, engine options, the model's
            header and name; raises MullamaError.
        vector_length: of the model's embeddings, from engine options, the model's header and name; asked once a job.
        holds_gil: its calls keep Python's interpreter lock, so that no other thread of the worker runs meanwhile. Such
            an engine works on one call at a time.
        secret_options: those whose value nothing may show.
        truncates: whether it can cut a text at the model's limit (``truncate="end"``).
    """

    name: str
    package: str | None
    install: str
    needs_model_file: bool
    start: Callable[[EngineSettings], Engine]
    checks: Mapping[str, Check] = field(default_factory=dict)
    output_options: frozenset[str] = frozenset()
    check_model: ModelCheck = _accept_any_model
    vector_length: VectorLength = _vector_length_of_header
    holds_gil: bool = False
    secret_options: frozenset[str] = frozenset()
    truncates: bool = False

    @property
    def available(self) -> bool:
        """Whether the package it needs is installed (it is not imported to find out)."""
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def require_available(self) -> None:
        """Raise EngineNotAvailableError if the package it needs is not installed."""
        if not self.available:
            raise EngineNotAvailableError(
                f"The engine {self.name!r} needs the package {self.package!r}, which is not installed: {self.install}"
            )

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """Raise ConfigurationError for an option that is unknown or out of range."""
        validate_options(self.name, self.checks, options)

    def with_secrets_hidden(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, with secret texts made such that they do not show."""
        return {
            name: Secret(value) if name in self.secret_options and isinstance(value, str) else value
            for name, value in options.items()
        }


# In the order in which `auto` looks for an installed one; echo is never chosen for a real model, and openai never,
# because rows leave the machine.
ENGINE_MODULES: Mapping[str, str] = {
    "llamacpp": "airflow_mullama.engines.llamacpp",
    "mullama": "airflow_mullama.engines.mullama",
    "openai": "airflow_mullama.engines.openai",
    "echo": "airflow_mullama.engines.echo",
}
AUTO_ORDER = ("llamacpp", "mullama")
ECHO_MODEL = "echo"


def engine_names() -> tuple[str, ...]:
    """Every engine's name, whether installed or not."""
    return tuple(ENGINE_MODULES)


def load_spec(name: str) -> EngineSpec:
    """The named engine's description; cheap: engine modules import their package only when started."""
    spec = importlib.import_module(ENGINE_MODULES[name]).SPEC
    assert isinstance(spec, EngineSpec)
    return spec


def engine_spec(engine: str, model: str) -> EngineSpec:
    """Decide which engine runs.

    Args:
        engine: a name, or ``auto``: ``echo`` for the model ``echo``, else the first installed one of the list.
        model: as the user wrote it.

    Raises:
        ConfigurationError: there is no engine of that name, or it does not go with the model.
        EngineNotAvailableError: ``auto``, and nothing is installed.
    """
    if engine == "auto":
        if model == ECHO_MODEL:
            return load_spec("echo")
        for name in AUTO_ORDER:
            spec = load_spec(name)
            if spec.available:
                return spec
        raise EngineNotAvailableError(
            f"engine='auto' found no installed engine (looked for {', '.join(AUTO_ORDER)}): pip install xllamacpp."
        )
    if not isinstance(engine, str) or engine not in ENGINE_MODULES:
        raise ConfigurationError(f"engine is {engine!r}; it must be 'auto' or one of {', '.join(ENGINE_MODULES)}.")
    if (model == ECHO_MODEL) != (engine == "echo"):
        raise ConfigurationError(
            f"engine={engine!r} and model={model!r} do not go together: the engine 'echo' has one model, 'echo', and "
            "no other engine has it."
        )
    return load_spec(engine)

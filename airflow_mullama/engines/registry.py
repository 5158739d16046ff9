"""The engines there are, and which one ``auto`` means."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_mullama.arguments import Check
from airflow_mullama.engines.base import Engine, EngineSettings
from airflow_mullama.engines.options import validate_options
from airflow_mullama.errors import ConfigurationError, EngineNotAvailableError
from airflow_mullama.models.names import may_be_gguf
from airflow_mullama.redaction.credentials import Secret

if TYPE_CHECKING:  # a worker gets its model's path, and starts without what finds and fetches models
    from airflow_mullama.models.resolve import Model
    from airflow_mullama.storage.filesystems import Resolver

FindModel = Callable[[str, "Resolver", "str | None", Mapping[str, Any]], "Model"]
ModelCheck = Callable[[str, Mapping[str, Any], Mapping[str, Any], "Model"], None]
VectorLength = Callable[[Mapping[str, Any], "Model"], "int | None"]
LoadMemory = Callable[[EngineSettings], "int | None"]


def find_gguf(name: str, resolver: Resolver, sha256: str | None, options: Mapping[str, Any]) -> Model:
    """For engines whose models are GGUF files."""
    from airflow_mullama.models.resolve import resolve_model

    return resolve_model(name, resolver, sha256)


def _accept_any_model(task: str, settings: Mapping[str, Any], options: Mapping[str, Any], model: Model) -> None:
    """For engines that know no model files."""


def _vector_length_of_header(options: Mapping[str, Any], model: Model) -> int | None:
    return model.header.embedding_length


def _load_memory_unknown(settings: EngineSettings) -> int | None:
    return None


def _no_variables(options: Mapping[str, Any]) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class EngineSpec:
    """What is known of an engine without loading it.

    Args:
        name: as users write it.
        package: the import name it needs; ``None`` if it needs none.
        install: how to get that package, for the error message.
        find_model: finds and hashes the model, from its name, what opens URLs, the hash that it must have, and the
            engine's options; ``None`` where a model is a name that only the engine understands.
        takes: whether ``engine="auto"`` may take it for a model of that name.
        checks: what each of its ``engine_options`` may be.
        output_options: those that can change an outcome, so that they belong to the fingerprint.
        start: builds the engine, inside the worker.
        check_model: refuses a model that cannot do the task; gets task, job settings, engine options and the model;
            raises MullamaError.
        vector_length: of the model's embeddings, from engine options and the model; asked once per job.
        holds_gil: its calls keep Python's interpreter lock, so that no other thread of the worker runs meanwhile. Such
            an engine works on one call at a time.
        located_options: those that name a model's file, wherever a model may be; the engine gets its local path.
        ends_calls: its calls end by themselves after a time that its options say, also without a ``row_timeout``.
        secrets_in: the texts among its options that nothing may show.
        generates: whether it writes text; every engine embeds.
        truncates: whether it can cut a text at the model's limit (``truncate="end"``).
        tells_logprobs: whether it can say how likely an answer's tokens were (``logprobs=True``).
        takes_adapters: whether it can change a model by LoRA adapters (``lora=``).
        takes_pictures: whether a row's request may have pictures (``image_columns=``).
        needs_projector: whether pictures come to its model through a projector of our own (``mmproj=``).
        needs_scratch: whether it is given a folder of its own (:attr:`EngineSettings.scratch`).
        variables: names of environment variables that it reads, from engine options; its process sees few others.
        load_memory: bytes that its process may have of its own while it loads; ``None`` where the model does not tell.
    """

    name: str
    package: str | None
    install: str
    find_model: FindModel | None
    start: Callable[[EngineSettings], Engine]
    takes: Callable[[str], bool] = may_be_gguf
    checks: Mapping[str, Check] = field(default_factory=dict)
    output_options: frozenset[str] = frozenset()
    check_model: ModelCheck = _accept_any_model
    vector_length: VectorLength = _vector_length_of_header
    holds_gil: bool = False
    located_options: frozenset[str] = frozenset()
    ends_calls: bool = False
    secrets_in: Callable[[Mapping[str, Any]], Collection[str]] = _no_variables
    generates: bool = True
    truncates: bool = False
    takes_adapters: bool = False
    takes_pictures: bool = False
    needs_projector: bool = False
    tells_logprobs: bool = False
    needs_scratch: bool = False
    variables: Callable[[Mapping[str, Any]], Collection[str]] = _no_variables
    load_memory: LoadMemory = _load_memory_unknown

    @property
    def needs_model_file(self) -> bool:
        """Whether the model is a file or a folder that this package finds and hashes."""
        return self.find_model is not None

    @property
    def available(self) -> bool:
        """Whether the package it needs is installed (it is not imported to find out).

        A mere folder of that name on Python's path counts as a package too, and has no origin.
        """
        if self.package is None:
            return True
        found = importlib.util.find_spec(self.package)
        return found is not None and found.origin is not None

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
        """The options, with secret texts wrapped so that they do not show, and without white space around them."""
        secrets = frozenset(self.secrets_in(options))
        return {name: _hidden(value, secrets) for name, value in options.items()} if secrets else dict(options)


def _hidden(value: Any, secrets: frozenset[str]) -> Any:
    if isinstance(value, str):
        return Secret(value.strip()) if value in secrets else value
    if isinstance(value, Mapping):
        return {name: _hidden(inner, secrets) for name, inner in value.items()}
    return [_hidden(inner, secrets) for inner in value] if isinstance(value, (list, tuple)) else value


# In the order in which `auto` looks for an installed one; echo is never chosen for a real model, and openai never,
# because rows leave the machine.
ENGINE_MODULES: Mapping[str, str] = {
    "sentence_transformers": "airflow_mullama.engines.sentence_transformers.engine",
    "llamacpp": "airflow_mullama.engines.llamacpp.engine",
    "mullama": "airflow_mullama.engines.mullama.engine",
    "openai": "airflow_mullama.engines.openai.engine",
    "echo": "airflow_mullama.engines.echo",
}
AUTO_ORDER = ("sentence_transformers", "llamacpp", "mullama")
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
        engine: a name, or ``auto``: ``echo`` for the model ``echo``, else the first installed one of the list that
            takes a model of that name.
        model: as the user wrote it.

    Raises:
        ConfigurationError: there is no engine of that name, or it does not go with the model.
        EngineNotAvailableError: ``auto``, and nothing is installed.
    """
    if engine == "auto":
        if model == ECHO_MODEL:
            return load_spec("echo")
        suited = [spec for spec in map(load_spec, AUTO_ORDER) if spec.takes(model)]
        if (installed := next((spec for spec in suited if spec.available), None)) is not None:
            return installed
        raise EngineNotAvailableError(
            f"engine='auto' found no installed engine for the model {model!r} (looked for "
            f"{', '.join(spec.name for spec in suited)}): {suited[0].install}."
            + ("" if suited[0].generates else " It only embeds; to write text, name a GGUF file.")
        )
    if not isinstance(engine, str) or engine not in ENGINE_MODULES:
        raise ConfigurationError(f"engine is {engine!r}; it must be 'auto' or one of {', '.join(ENGINE_MODULES)}.")
    if (model == ECHO_MODEL) != (engine == "echo"):
        raise ConfigurationError(
            f"engine={engine!r} and model={model!r} do not go together: the engine 'echo' has one model, 'echo', and "
            "no other engine has it."
        )
    return load_spec(engine)

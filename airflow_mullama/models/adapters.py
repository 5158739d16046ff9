"""LoRA adapters: found like models, hashed, and held against the model that they are to change before it is loaded.

What must agree is what llama.cpp looks at when it applies one (``src/llama-adapter.cpp``): the architecture, and for
each pair of matrices a tensor of the model with fitting sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_mullama.arguments import Number, require
from airflow_mullama.errors import ConfigurationError, MullamaError
from airflow_mullama.models.content_hash import file_sha256
from airflow_mullama.models.gguf_header import GgufHeader, read_gguf_header
from airflow_mullama.models.names import split_names
from airflow_mullama.models.resolve import Adapter, Model, locate_model
from airflow_mullama.storage.addresses import refuse_credentials
from airflow_mullama.storage.filesystems import Resolver, resolve_location

SCALE = Number(-100.0, 100.0)
ENDS = (".lora_a", ".lora_b")
EMBEDDING = "token_embd.weight"
Sides = tuple[int, ...]


def checked_lora(lora: Any) -> tuple[dict[str, Any], ...]:
    """The argument ``lora`` of a job, each entry with ``path`` and ``scale``.

    Raises:
        ConfigurationError: names the entry and what is wrong with it.
    """
    if not isinstance(lora, Sequence) or isinstance(lora, (str, bytes)) or not lora:
        raise ConfigurationError(
            f"lora is {lora!r}; it must be a list such as [{{'path': '/models/tickets-lora.gguf', 'scale': 1.0}}]."
        )
    checked = []
    for place, entry in enumerate(lora):
        if not isinstance(entry, Mapping) or not {"path"} <= set(entry) <= {"path", "scale"}:
            raise ConfigurationError(f"lora[{place}] is {entry!r}; it must be a dictionary with 'path' and 'scale'.")
        path, scale = entry["path"], entry.get("scale", 1.0)
        if not isinstance(path, str) or not path:
            raise ConfigurationError(f"lora[{place}]['path'] is {path!r}; name the adapter's GGUF file as for model.")
        refuse_credentials(path, "The adapter")
        require(f"lora[{place}]['scale']", scale, SCALE)
        checked.append({"path": path, "scale": float(scale)})
    return tuple(checked)


def resolve_adapters(
    lora: Sequence[Mapping[str, Any]], model: Model, resolver: Resolver = resolve_location
) -> tuple[Adapter, ...]:
    """Find (or fetch), hash and check a job's adapters.

    Args:
        lora: see :func:`checked_lora`.
        model: that they are to change.
        resolver: opens object-store URLs.

    Raises:
        ModelNotFoundError, ModelUnavailableError, ModelUnreadableError: as for a model.
        ConfigurationError: one is no adapter, or one for another model.
    """
    tensors = _tensors_of(model)
    adapters = []
    for place, entry in enumerate(lora):
        name = str(entry["path"])
        try:
            path, _ = locate_model(name, resolver)
            header = read_gguf_header(path)
        except MullamaError as error:
            raise type(error)(f"lora[{place}]: {error}") from error
        _refuse_misfit(f"lora[{place}] {name!r}", header, model, tensors)
        adapters.append(Adapter(name, str(path), float(entry["scale"]), file_sha256(path)))
    return tuple(adapters)


def _tensors_of(model: Model) -> dict[str, Sides]:
    tensors = dict(model.header.tensor_sides)
    for part in split_names(Path(model.path).name)[1:]:
        tensors |= read_gguf_header(Path(model.path).with_name(part)).tensor_sides
    return tensors


def _refuse_misfit(which: str, adapter: GgufHeader, model: Model, tensors: Mapping[str, Sides]) -> None:
    if not adapter.is_adapter:
        raise ConfigurationError(
            f"{which} is no LoRA adapter but a model: give it as model, or convert the adapter with llama.cpp's "
            "convert_lora_to_gguf.py."
        )
    kind = adapter.metadata.get("adapter.type")
    if kind != "lora":
        raise ConfigurationError(f"{which} is an adapter of the type {kind!r}; only 'lora' can be used.")
    if adapter.architecture != model.header.architecture:
        raise ConfigurationError(
            f"{which} is for models of the architecture {adapter.architecture!r}, and {model.name!r} has "
            f"{model.header.architecture!r}: take the adapter that was trained on this model."
        )
    pairs = _pairs(which, adapter.tensor_sides)
    for name, (a, b) in pairs.items():
        if (sides := tensors.get(name)) is None:
            raise ConfigurationError(
                f"{which} changes the tensor {name!r}, which {model.name!r} does not have: take the adapter that was "
                "trained on this model."
            )
        if not _fits(name, a, b, sides):
            raise ConfigurationError(
                f"{which} changes {name!r} with matrices of {_by(a)} and {_by(b)}, and in {model.name!r} it has "
                f"{_by(sides)}: take the adapter that was trained on this model."
            )


def _pairs(which: str, tensors: Mapping[str, Sides]) -> dict[str, tuple[Sides, Sides]]:
    """Both matrices of each tensor that an adapter changes."""
    names = dict.fromkeys(name.removesuffix(ENDS[0]).removesuffix(ENDS[1]) for name in tensors)
    pairs = {}
    for name in names:
        a, b = (tensors.get(name + end) for end in ENDS)
        if a is None or b is None or len(a) < 2 or len(b) < 2:
            raise ConfigurationError(f"{which} is damaged: {name!r} lacks one of its two matrices; convert it again.")
        pairs[name] = (a, b)
    if not pairs:
        raise ConfigurationError(f"{which} has no matrices and would change nothing; convert it again.")
    return pairs


def _fits(name: str, a: Sides, b: Sides, sides: Sides) -> bool:
    if len(sides) < 2:
        return False
    if name == EMBEDDING:  # whose matrices stand the other way round
        return sides[0] == b[1] and sides[1] == a[1]
    return sides[0] == a[0] and sides[1] == b[1] and a[1] == b[0]


def _by(sides: Sides) -> str:
    return " x ".join(map(str, sides))

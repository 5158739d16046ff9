"""What is refused of a model's folder before it is loaded: what cannot embed, and what would run a stranger's code."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from airflow_mullama.engines.sentence_transformers.model_folder import ModelFolder, Module, read_model_folder
from airflow_mullama.errors import ConfigurationError, DependencyMissingError, ModelUnreadableError
from airflow_mullama.models.resolve import Model

FIRST_MODULES = ("Transformer", "StaticEmbedding")
LATER_MODULES = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
WITH_WEIGHTS = ("Transformer", "StaticEmbedding", "Dense", "LayerNorm")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# By the name of a job's pooling.
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
# By backend: what it imports, and what brings it.
BACKEND_PACKAGES = {
    "onnx": (("optimum", "onnxruntime"), "pip install 'sentence-transformers[onnx]'"),
    "openvino": (("optimum", "openvino"), "pip install 'sentence-transformers[openvino]'"),
}
EXPORTED = {
    "onnx": ("model.onnx", "onnx/model.onnx"),
    "openvino": ("openvino_model.xml", "openvino/openvino_model.xml"),
}


def check_model(task: str, settings: Mapping[str, Any], options: Mapping[str, Any], model: Model) -> None:
    """Refuse a model that cannot do the task, or not safely.

    Raises:
        ConfigurationError: says what to set, or which model to take.
        ModelUnreadableError: the folder holds no whole model.
        DependencyMissingError: the backend's packages are not installed.
    """
    if task == "generate":
        raise ConfigurationError(
            f"The engine 'sentence_transformers' embeds and writes no text: use {model.name!r} with "
            "MullamaEmbedOperator, or take a GGUF model."
        )
    backend = str(options.get("backend", "torch"))
    _check_backend(backend, options)
    folder = read_model_folder(model.path, model.name)
    _check_kind(folder, model.name)
    for place, module in enumerate(folder.modules):
        _check_module(module, place, bool(options.get("trust_remote_code")), model.name)
        if module.kind in WITH_WEIGHTS and not (place == 0 and is_exported(folder, backend)):
            _check_weights(module, model.name)
    _check_pooling(folder, settings.get("pooling"), model.name)
    _check_dimensions(folder, settings.get("dimensions"), model.name)
    _check_prompts(folder, options, model.name)


def vector_length(options: Mapping[str, Any], model: Model) -> int | None:
    """How many numbers a vector has, as the folder says."""
    return read_model_folder(model.path, model.name).vector_length


def is_exported(folder: ModelFolder, backend: str) -> bool:
    """Whether the folder has the model in the backend's own format."""
    return any((folder.path / name).is_file() for name in EXPORTED.get(backend, ()))


def _check_backend(backend: str, options: Mapping[str, Any]) -> None:
    if backend == "torch":
        return
    packages, install = BACKEND_PACKAGES[backend]
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise DependencyMissingError(
            f"engine_options['backend'] is {backend!r} and needs the packages {', '.join(packages)}, of which "
            f"{', '.join(missing)} is not installed: {install}."
        )
    if options.get("dtype") not in (None, "auto", "float32"):
        raise ConfigurationError(
            f"engine_options['dtype'] is {options['dtype']!r}, and with backend {backend!r} the exported file decides; "
            "leave it out."
        )


def _check_kind(folder: ModelFolder, model: str) -> None:
    kind = folder.settings.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ConfigurationError(
            f"The model {model!r} is a {kind}, which gives no single vector for a text; take an embedding model "
            "(a SentenceTransformer)."
        )
    if (folder.path / "adapter_config.json").is_file():
        raise ConfigurationError(
            f"The model {model!r} is an adapter, which needs another model's weights: merge the two "
            "(merge_and_unload of the package peft), save the result, and give its folder."
        )


def _check_module(module: Module, place: int, trusted: bool, model: str) -> None:
    if module.is_foreign:
        if not trusted:
            raise ConfigurationError(
                f"The model {model!r} brings code of its own ({module.kind}); it runs only if you read it, trust it, "
                "and set engine_options['trust_remote_code'] to True."
            )
        return
    if module.kind not in (LATER_MODULES if place else FIRST_MODULES):
        raise ConfigurationError(
            f"The model {model!r} has {'the module' if place else 'as its first module'} {module.kind}, with which "
            f"this engine does not know how to embed texts; it knows {', '.join((*FIRST_MODULES, *LATER_MODULES))}."
        )


def _check_weights(module: Module, model: str) -> None:
    if any(module.folder.glob("*.safetensors")):
        return
    if found := sorted(file.name for pattern in PICKLES for file in module.folder.glob(pattern)):
        raise ConfigurationError(
            f"The model {model!r} has its weights in {found[0]}, a pickle: a program that runs when it is loaded. Take "
            "a revision with model.safetensors, or load it once where that does no harm and save it again."
        )
    raise ModelUnreadableError(
        f"The model {model!r} lacks the weights of its module {module.kind}: there is no file *.safetensors in "
        f"{str(module.folder)!r} (a pickled pytorch_model.bin on the Hub is not fetched)."
    )


def _check_pooling(folder: ModelFolder, pooling: str | None, model: str) -> None:
    if folder.is_plain:
        if pooling is None:
            raise ConfigurationError(
                f"The model {model!r} does not say how its token vectors become one (it has no modules.json); set "
                "pooling='mean', 'cls' or 'last' (its makers' page says which)."
            )
        return
    declared = [mode for module in folder.modules if module.kind == "Pooling" for mode in module.poolings]
    if pooling is not None and declared != [POOLINGS[pooling]]:
        raise ConfigurationError(
            f"pooling is {pooling!r}, and the model {model!r} says how it pools ({', '.join(declared) or 'not at all'})"
            "; leave it out."
        )


def _check_dimensions(folder: ModelFolder, dimensions: int | None, model: str) -> None:
    length = folder.vector_length
    if dimensions and length and dimensions > length:
        raise ConfigurationError(f"dimensions is {dimensions} and the vectors of {model!r} have {length} numbers.")


def _check_prompts(folder: ModelFolder, options: Mapping[str, Any], model: str) -> None:
    name = options.get("prompt_name")
    if name is None:
        return
    if options.get("prompt") is not None:
        raise ConfigurationError("Give engine_options['prompt'] or engine_options['prompt_name'], not both.")
    if name not in folder.prompts:
        there = ", ".join(map(repr, sorted(folder.prompts))) or "none"
        raise ConfigurationError(
            f"engine_options['prompt_name'] is {name!r}, and the prompts of {model!r} are: {there}; "
            "engine_options['prompt'] takes a text of your own."
        )

"""Loading a model's folder with sentence-transformers; what that only warns of is an error here."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_mullama.engines.base import EngineSettings
from airflow_mullama.engines.sentence_transformers.model_checks import POOLINGS
from airflow_mullama.engines.sentence_transformers.model_folder import ModelFolder
from airflow_mullama.engines.sentence_transformers.settings import TorchSettings
from airflow_mullama.errors import ModelLoadError

# Heads of an architecture that no vector comes from: many models are published without them.
UNUSED_WEIGHTS = re.compile(r"(^|\.)(pooler|lm_head|classifier|score|cls|predictions)\.")
# As transformers says it: 5 in a table, 4 in a list.
MISSING_WEIGHT = re.compile(r"^(\S+)\s*\|\s*(?:\x1b\[\d+m)?MISSING", re.MULTILINE)
NEWLY_INITIALIZED = re.compile(r"newly initialized: \[([^\]]*)\]")


def load_model(settings: EngineSettings, chosen: TorchSettings, folder: ModelFolder, torch: Any) -> Any:
    """The model, ready to compute.

    Args:
        settings: of the job.
        chosen: where and how it computes.
        folder: the model's.
        torch: the module.

    Raises:
        ModelLoadError: sentence-transformers does not load it, or would make up weights that the folder lacks.
    """
    import sentence_transformers
    import transformers

    transformers.utils.logging.disable_progress_bar()
    trusted = bool(settings.options.get("trust_remote_code"))
    try:
        with _warnings_of_transformers() as warnings:
            model = sentence_transformers.SentenceTransformer(
                settings.model,
                device=chosen.device,
                backend=chosen.backend,
                trust_remote_code=trusted,
                local_files_only=not trusted,
                model_kwargs=_model_arguments(chosen, torch),
            )
    except Exception as error:
        raise ModelLoadError(
            f"sentence-transformers could not load {settings.model!r} on {chosen.device_words} "
            f"({type(error).__name__}: {first_line(error)}).{_remedy(error)}"
        ) from error
    if missing := _missing_weights("\n".join(warnings)):
        named = ", ".join(missing[:3]) + (" and more" if len(missing) > 3 else "")
        raise ModelLoadError(
            f"The weights of {settings.model!r} lack {named}: random "
            "numbers would stand there. Fetch the model again, or take another one."
        )
    if folder.is_plain:
        model[1].pooling_mode = POOLINGS[settings.settings["pooling"]]
    return model.eval()


def _missing_weights(warnings: str) -> list[str]:
    """Names of weights that a vector comes from and that the folder lacks."""
    names = MISSING_WEIGHT.findall(warnings)
    names += [name for listed in NEWLY_INITIALIZED.findall(warnings) for name in re.findall(r"'([^']+)'", listed)]
    return [name for name in names if not UNUSED_WEIGHTS.search(name)]


def _model_arguments(chosen: TorchSettings, torch: Any) -> dict[str, Any]:
    if chosen.backend == "torch":
        return {"dtype": getattr(torch, chosen.dtype), "use_safetensors": True}
    if chosen.backend == "openvino":
        return {"ov_config": {"INFERENCE_NUM_THREADS": chosen.n_threads}} if chosen.on_cpu else {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if chosen.on_cpu:
        options.intra_op_num_threads = chosen.n_threads
    provider = "CPUExecutionProvider" if chosen.on_cpu else "CUDAExecutionProvider"
    return {"provider": provider, "session_options": options}


def _remedy(error: Exception) -> str:
    if "trust_remote_code" not in str(error):
        return ""
    return (
        " It brings code of its own, which runs only if you read it, trust it, and set "
        "engine_options['trust_remote_code'] to True."
    )


@contextmanager
def _warnings_of_transformers() -> Iterator[list[str]]:
    """What transformers warns of while it loads; it is the only place where missing weights are told of."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, keep = logging.getLogger("transformers.modeling_utils"), Keep()
    logger.addHandler(keep)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(keep)
        logger.propagate = True


def first_line(error: Exception) -> str:
    """Of what an exception says."""
    return (str(error).strip().splitlines() or ["no message"])[0]

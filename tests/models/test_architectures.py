"""Each architecture that the installed llama.cpp knows is one that it is used for, or one that it is refused for."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from airflow_mullama.models.architectures import DECODERS, ENCODERS

# Encoder and decoder, diffusion, drafts for other models, sound, pictures; and a few that nobody has looked at.
REFUSED = {
    *("t5", "t5encoder"),
    *("dream", "llada", "llada-moe", "rnd1"),
    *("dflash", "eagle3", "gemma4-assistant"),
    *("pockettts", "qwen3tts", "wavtokenizer-dec"),
    *("clip", "clef", "hrm_text", "muse-glimmer"),
}


def names_in_the_installed_library() -> set[str]:
    """Those of its table that stand in one piece; the linker merges some with longer texts."""
    package = importlib.util.find_spec("xllamacpp")
    if package is None or package.origin is None:
        pytest.skip("xllamacpp is not installed")
    found: set[str] = set()
    for library in Path(package.origin).parent.glob("*.so"):
        content = library.read_bytes()
        end = content.find(b"\0(unknown)\0general.type\0")
        table = content[max(0, content.rfind(b"clip\0llama\0", 0, end)) : end]
        found |= {name.decode() for name in table.split(b"\0") if re.fullmatch(rb"[a-z0-9_.-]+", name)}
    return found


def test_no_architecture_is_two_things() -> None:
    assert not ENCODERS & DECODERS
    assert not (ENCODERS | DECODERS) & REFUSED


def test_each_architecture_of_the_installed_llama_cpp_has_its_place() -> None:
    names = names_in_the_installed_library()
    assert len(names) > 100
    assert names - ENCODERS - DECODERS - REFUSED == set()

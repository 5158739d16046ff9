"""Room on the stack for threads that tokenize.

llama.cpp splits text by regular expressions that take a stack frame of some 420 bytes for each character of a run, such
as of blanks (measured; for vocabularies without a splitter of their own, such as those of Mistral, DeepSeek and
gpt-oss). On the usual 8 MB some 20,000 characters end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path

# Enough for a run of the 1,000,000 characters that are tokenized at most. Only what is touched takes memory.
DEEP_STACK_BYTES = 512 << 20
ATTRIBUTES_BYTES = 128
"""More than a ``pthread_attr_t`` takes on any platform (56 or 64)."""
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
NEVER_OVERCOMMIT = "2"


@contextlib.contextmanager
def deep_stacks() -> Iterator[None]:
    """Within this, new threads of the process get a deep stack, those that native code starts too.

    Where addresses alone count as memory, or the C library has no such setting, nothing changes.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "pthread_setattr_default_np") or _addresses_count():
        yield
        return
    usual, deep = ctypes.create_string_buffer(ATTRIBUTES_BYTES), ctypes.create_string_buffer(ATTRIBUTES_BYTES)
    library.pthread_getattr_default_np(usual)
    library.pthread_attr_init(deep)
    library.pthread_attr_setstacksize(deep, ctypes.c_size_t(DEEP_STACK_BYTES))
    library.pthread_setattr_default_np(deep)
    try:
        yield
    finally:
        library.pthread_setattr_default_np(usual)


def _addresses_count() -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    try:
        return limit != resource.RLIM_INFINITY or OVERCOMMIT.read_text().strip() == NEVER_OVERCOMMIT
    except OSError:
        return limit != resource.RLIM_INFINITY

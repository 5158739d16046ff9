"""One object of a store on its way to a file: in pieces side by side, checked, and continued if it was cut off."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from airflow_mullama.background import map_ahead
from airflow_mullama.errors import ModelUnavailableError
from airflow_mullama.models.content_hash import BLOCK_BYTES, file_sha256, remember_sha256
from airflow_mullama.storage.filesystems import Location

log = logging.getLogger(__name__)

PIECE_BYTES = 8 << 20
PIECES_AT_ONCE = 8
PARTIAL_SUFFIX = ".partial"
SHA256_SUFFIX = ".sha256"
# The ETag of an object that was uploaded in one piece, unless the store encrypts it with a key of the customer's.
MD5_ETAG = re.compile(r'"?([0-9a-f]{32})"?')


def is_whole(path: Path, size: int | None) -> bool:
    """Whether a copy is there, and what was fetched: of its size, and where it was touched since, of its content."""
    noted = _note_of(path)
    try:
        if path.stat().st_size != size:
            return False
        if file_sha256(path) == noted.read_text().strip():
            return True
    except OSError:
        return False
    log.warning("the copy %s is not what was fetched: it was changed, or its disk is failing; fetching it again", path)
    return False


def _note_of(path: Path) -> Path:
    return path.with_name(path.name + SHA256_SUFFIX)


@dataclass(frozen=True)
class Download:
    """An object that is to be copied. One at a time copies to the same place.

    Args:
        source: the object.
        target: the file.
        size: bytes of the object.
        mtime_ns: when it was changed last, in nanoseconds since 1970, as far as the store says that.
    """

    source: Location
    target: Path
    size: int
    mtime_ns: int | None = None

    def missing_bytes(self) -> int:
        """What is still to be fetched."""
        return self.size - self._present()

    def run(self) -> None:
        """Fetch what is missing, check the whole and put it in its place.

        Raises:
            ModelUnavailableError: the store does not give it, or gives something else each time, or it was replaced.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        for left in self.target.parent.glob(f"{glob.escape(self.target.name)}.*{PARTIAL_SUFFIX}"):
            if left != self._partial:
                left.unlink(missing_ok=True)
        try:
            with self.source.filesystem.open_input_file(self.source.path) as object_:
                self._run(object_, _md5_of(object_))
        except (pa.ArrowException, OSError) as error:
            raise ModelUnavailableError(f"The model {self.source.url!r} could not be copied: {error}.") from error

    def _run(self, object_: pa.NativeFile, md5: str | None) -> None:
        first = self._copy(object_)
        if md5 is not None and self._md5() != md5:
            # An ETag need not be an MD5; what comes twice the same is what the store holds.
            log.info("model %s: the copy differs from its ETag; fetching it once more to compare", self.source.url)
            self._partial.unlink()
            if self._copy(object_) != first:
                self._partial.unlink()
                raise ModelUnavailableError(
                    f"The model {self.source.url!r} was fetched twice and was not the same: the network or the disk of "
                    f"{str(self.target.parent)!r} damages what goes through it; check them."
                )
        note = _note_of(self.target)
        note.write_text(first + "\n")
        os.replace(self._partial, self.target)
        remember_sha256(self.target, first)

    def _copy(self, object_: pa.NativeFile) -> str:
        """Fetch what is missing; the SHA-256 of the whole."""
        digest, begin = hashlib.sha256(), self._present()
        action = f"going on after {begin / 1e6:.1f} of" if begin else "copying"
        log.info("model %s: %s %.1f MB to %s", self.source.url, action, self.size / 1e6, self.target)
        with open(self._partial, "r+b" if begin else "w+b") as file:
            for block in _blocks(file):
                digest.update(block)
            starts = range(begin, self.size, PIECE_BYTES)
            for piece in map_ahead(partial(self._piece, object_), starts, PIECES_AT_ONCE, "mullama-model"):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        self._refuse_replaced(object_)
        return digest.hexdigest()

    def _refuse_replaced(self, fetched: pa.NativeFile) -> None:
        """Each piece is a request of its own, and the first may be an earlier attempt's: all must be of one state.

        Nothing else would tell: a model in the same format has the same size, and what was uploaded in parts has no
        checksum.
        """
        info = self.source.info()
        with self.source.filesystem.open_input_file(self.source.path) as there:
            same = _etag_of(there) == _etag_of(fetched)
        # Listings of some stores are more exact than what they say of an object.
        same = same and info.size == self.size and _seconds(info.mtime_ns) == _seconds(self.mtime_ns or info.mtime_ns)
        if not same:
            self._partial.unlink(missing_ok=True)
            raise ModelUnavailableError(
                f"The model {self.source.url!r} was replaced in its store while it was fetched, so that the copy would "
                "be of both: run the task again, which fetches the new one."
            )

    def _piece(self, object_: pa.NativeFile, start: int) -> bytes:
        wanted = min(PIECE_BYTES, self.size - start)
        piece = bytes(object_.read_at(wanted, start))
        if len(piece) != wanted:
            raise OSError(f"it ended at {start + len(piece)} of {self.size} bytes")
        return piece

    def _md5(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        with open(self._partial, "rb") as file:
            for block in _blocks(file):
                digest.update(block)
        return digest.hexdigest()

    def _present(self) -> int:
        with contextlib.suppress(OSError):
            size = self._partial.stat().st_size
            return size if size <= self.size else 0
        return 0

    @property
    def _partial(self) -> Path:
        # Of this boot alone: a machine that lost its power may have the size of a file, and not its content.
        return self.target.with_name(f"{self.target.name}.{_boot()}{PARTIAL_SUFFIX}")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return "unknown"


def _etag_of(object_: pa.NativeFile) -> str:
    """What a store calls this state of an object; empty if it does not say."""
    with contextlib.suppress(pa.ArrowException, OSError, AttributeError):
        return str((object_.metadata() or {}).get("ETag", b"").decode())
    return ""


def _md5_of(object_: pa.NativeFile) -> str | None:
    """What a store says is the MD5 of an object, if it says so."""
    found = MD5_ETAG.fullmatch(_etag_of(object_))
    return found[1] if found else None


def _seconds(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else nanoseconds // 1_000_000_000

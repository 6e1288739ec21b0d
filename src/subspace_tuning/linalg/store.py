"""The decompositions that training starts from, kept on disk from one start to the next.

<cache>/svd/<hash>.safetensors holds U, S, Vt of one weight. The hash covers the weight's bytes, shape, layout, dtype
and kind of device, which terms were asked for, and torch's version. A file is written aside and renamed, and checked
when it is read; one that is damaged counts as missing, and a disk that cannot be written is done without. Past
$SUBSPACE_SVD_GB (4; 0 keeps nothing) the least recently used go.

Only what stands within ``keeping()`` is kept: the layers of a model do when a method is put on them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from subspace_tuning.errors import BadInput, RunFailed
from subspace_tuning.files.aside import whole_file
from subspace_tuning.files.fetch import cache_folder
from subspace_tuning.linalg.fingerprint import fingerprint, laid_out
from subspace_tuning.linalg.svd import SVD, svd, truncated_svd

FORM = "2"  # to be raised when the same question gets other numbers
TOLERANCE = 1e-4  # of the energy of W: enough for a start, which changes phi(W) not at all
LEAST = 256  # of n and m: below, decomposing costs no more than looking it up
ABANDONED = 3600.0  # seconds after which a file aside has lost its writer
_UNREADABLE = (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError)

_keeping: ContextVar[bool] = ContextVar("keeping", default=False)


@contextmanager
def keeping() -> Iterator[None]:
    """Within this, decompositions come from the store where it has them, and go there where it has not."""
    token = _keeping.set(True)
    try:
        yield
    finally:
        _keeping.reset(token)


def whole_svd(W: Tensor) -> SVD:
    """W = U diag(S) V^T, for W (n, m)."""
    return _kept(W, "whole", svd)


def top_svd(W: Tensor, r: int) -> SVD:
    """The r largest terms, all but 1e-4 of the energy of W at most; found at random, always from the same seed."""
    return _kept(W, f"top {r}", partial(truncated_svd, r=r, tolerance=TOLERANCE))


def bottom_svd(W: Tensor, r: int) -> SVD:
    """The r smallest terms."""
    return _kept(W, f"bottom {r}", lambda W: svd(W).bottom(r))


def _kept(W: Tensor, which: str, decompose: Callable[[Tensor], SVD]) -> SVD:
    store = Store.of_user() if _keeping.get() and min(W.shape) >= LEAST and not W.is_meta else None
    if store is None:
        return _plain(decompose(W))
    key = _key(W, which)
    found = store.read(key)
    if found is None:
        found = _plain(decompose(W))
        about = {"weight": f"{W.shape[0]} x {W.shape[1]}", "terms": which, "dtype": str(W.dtype).removeprefix("torch.")}
        store.write(key, found, about)
    return SVD(*(t.to(W.device) for t in found))


def _plain(terms: SVD) -> SVD:
    """In the one layout that files know, so that what follows has the same bits with the store and without."""
    return SVD(*(t.contiguous() for t in terms))


def _key(W: Tensor, which: str) -> str:
    about = (FORM, torch.__version__, W.device.type, str(W.dtype), tuple(W.shape), W.is_contiguous(), which, TOLERANCE)
    return fingerprint(repr(about), laid_out(W))


@dataclass(frozen=True)
class Entry:
    """A file of the store."""

    path: Path
    bytes: int
    used: float  # when, in seconds since 1970

    def about(self) -> dict[str, str]:
        """The weight, the terms and the dtype, or nothing where the file is damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                return json.loads(file.metadata()["about"])
        except _UNREADABLE:
            return {}


@dataclass(frozen=True)
class Store:
    """Files of decompositions in a folder, ``limit`` bytes of them at most; any number of processes may share it."""

    folder: Path
    limit: int

    @classmethod
    def of_user(cls) -> Store | None:
        """The store in the user's cache, or None where $SUBSPACE_SVD_GB is 0."""
        given = os.environ.get("SUBSPACE_SVD_GB") or "4"
        try:
            limit = int(float(given) * 2**30)
        except (ValueError, OverflowError):
            raise BadInput(
                f"SUBSPACE_SVD_GB is a number of gigabytes, such as 4 or 0 for none; got {given!r}"
            ) from None
        return cls(cache_folder() / "svd", limit) if limit > 0 else None

    def read(self, key: str) -> SVD | None:
        """What is kept under a key, or None."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                terms, notes = SVD(*(file.get_tensor(k) for k in SVD._fields)), file.metadata()
                if notes["key"] != key:  # the file of another weight, under this one's name
                    return None
                checksum = notes["checksum"]
        except _UNREADABLE:
            return None
        with suppress(OSError):  # gone meanwhile, or not ours to mark
            os.utime(path)  # used now
        return terms if fingerprint("", *terms) == checksum else None

    def write(self, key: str, terms: SVD, about: dict[str, str]) -> None:
        """Keep it, if that can be done, and make room."""
        values = {k: t.cpu() for k, t in terms._asdict().items()}
        if sum(t.nbytes for t in values.values()) > self.limit:
            return
        notes = {"key": key, "about": json.dumps(about), "checksum": fingerprint("", *values.values())}
        with suppress(BadInput, RunFailed, OSError, SafetensorError):  # a full disk, or one that is not ours to write
            with whole_file(self._path(key)) as aside:
                save_file(values, aside, notes)
            self._make_room()

    def entries(self) -> list[Entry]:
        """All that is kept, the least recently used first."""
        return sorted(self._files(".safetensors"), key=lambda e: e.used)

    def clear(self) -> list[Entry]:
        """Remove everything; returns what there was."""
        gone = self.entries()
        for entry in (*gone, *self._asides()):
            entry.path.unlink(missing_ok=True)
        return gone

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _make_room(self) -> None:
        entries = self.entries()
        excess = sum(e.bytes for e in entries) - self.limit
        for entry in entries:
            if excess <= 0:
                break
            entry.path.unlink(missing_ok=True)
            excess -= entry.bytes
        for entry in self._asides():
            if time.time() - entry.used > ABANDONED:
                entry.path.unlink(missing_ok=True)

    def _asides(self) -> list[Entry]:
        return [e for e in self._files("") if e.path.name.startswith(".")]

    def _files(self, suffix: str) -> list[Entry]:
        found: list[Entry] = []
        with suppress(FileNotFoundError):  # no folder yet
            for file in os.scandir(self.folder):
                if file.name.endswith(suffix):
                    with suppress(FileNotFoundError):  # another process was faster
                        known = file.stat()
                        found.append(Entry(Path(file.path), known.st_size, known.st_mtime))
        return found

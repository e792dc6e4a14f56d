"""Filling a bundle's folder: each file hashed while it is written, and listed for the manifest."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.bundle.documents import ShippedFile
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from io import FileIO
    from pathlib import Path

    from pydantic import BaseModel

_LONGEST_NAME = 80
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_PIECE = 64 << 20
_BLOCK = 1 << 20


class BundleWriter:
    """Writes the files of one bundle.

    Attributes:
        folder: The bundle's folder, not yet in its place.
        files: What was written, by relative POSIX path.
    """

    def __init__(self, folder: Path, files: Mapping[str, ShippedFile] | None = None) -> None:
        """Write into ``folder``, where ``files`` are already."""
        self.folder = folder
        self.files: dict[str, ShippedFile] = dict(files or {})

    def add_bytes(self, name: str, content: bytes) -> None:
        """Write a file."""
        self._open(name).write_bytes(content)
        self.files[name] = ShippedFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def add_text(self, name: str, text: str) -> None:
        """Write a file of UTF-8 with its line endings as they are; lone surrogates are kept as they came."""
        self.add_bytes(name, text.encode("utf-8", "surrogatepass"))

    def add_document(self, name: str, document: BaseModel) -> None:
        """Write one of the bundle's documents."""
        self.add_bytes(name, to_json(document))

    def add_json(self, name: str, value: Any) -> None:
        """Write plain data that is not a document of ours."""
        text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
        self.add_bytes(name, f"{text}\n".encode())

    def copy(self, name: str, source: Path) -> None:
        """Copy a file byte for byte, read once: what is hashed is what is written.

        Raises:
            BundleError: ``artifact-unreadable``.
        """
        try:
            reader = source.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(source, error) from error
        target, digest, size = self._open(name), hashlib.sha256(), 0
        # The kernel copies, and a thread behind it hashes what was written: as quick as `cp` on two cores.
        with (
            reader,
            target.open("wb", buffering=0) as writer,
            target.open("rb", buffering=0) as written,
            ThreadPoolExecutor(1) as behind,
        ):
            hashed = []
            for count in _copy_pieces(reader, writer, source):
                hashed.append(behind.submit(_hash_next, digest, written, count))
                size += count
            # It has to reach the disk before the bundle is put in place: now, while the thread is still hashing.
            os.fsync(writer.fileno())
            for piece in hashed:
                piece.result()
        self.files[name] = ShippedFile(size=size, sha256=digest.hexdigest())

    def reserve(self, name: str) -> Path:
        """The path of a file that somebody else writes; `adopt` it afterwards."""
        return self._open(name)

    def adopt(self, name: str) -> None:
        """List a file that somebody else wrote into the folder."""
        digest, size = hashlib.sha256(), 0
        with (self.folder / name).open("rb") as reader:
            while piece := reader.read(_BLOCK):
                digest.update(piece)
                size += len(piece)
        self.files[name] = ShippedFile(size=size, sha256=digest.hexdigest())

    def withdraw(self, name: str) -> None:
        """Take back a file that was written, so that another takes its name."""
        # Not overwritten: in a sync it is one file with what waits beside the target.
        (self.folder / name).unlink()
        del self.files[name]

    def _open(self, name: str) -> Path:
        assert name not in self.files, f"{name} is written twice"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def name_code_file(number: int, factor: str) -> str:
    """What the file of a factor's code is called: whatever the factor is, short and of letters that any disk takes.

    Two factors' files differ by their numbers, also where their names are the same, or are in another case.
    """
    return f"factor_{number}_{_UNSAFE.sub('_', factor)[:_LONGEST_NAME]}.py"


def to_json(document: BaseModel) -> bytes:
    """A document as it is in a bundle: UTF-8, indented, one line feed at the end."""
    return f"{document.model_dump_json(indent=2)}\n".encode()


def _copy_pieces(reader: FileIO, writer: FileIO, source: Path) -> Iterator[int]:
    """Copy from one file's start to its end, and say after each piece how many bytes it had."""
    copied = 0
    if hasattr(os, "copy_file_range"):
        # Kernels and file systems refuse it in a dozen ways; what is missing is copied plainly below,
        # and a disk that is full says so again there.
        with suppress(OSError):
            while count := os.copy_file_range(reader.fileno(), writer.fileno(), _PIECE, copied, copied):
                copied += count
                yield count
    reader.seek(copied)
    writer.seek(copied)
    buffer = memoryview(bytearray(_BLOCK))
    while True:
        try:
            count = reader.readinto(buffer)
        except OSError as error:
            raise _unreadable(source, error) from error
        if not count:
            return
        written = 0
        while written < count:
            written += writer.write(buffer[written:count])
        yield count


def _hash_next(digest: hashlib._Hash, file: FileIO, count: int) -> None:
    while count:
        piece = file.read(min(_BLOCK, count))
        if not piece:
            raise OSError(errno.EIO, "what was written cannot be read back")
        digest.update(piece)
        count -= len(piece)


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        "artifact-unreadable",
        f"{path} cannot be read: {error.strerror or error}.",
        "Check its permissions and the disk that it is on.",
    )

"""Copying a factor table's file as it is, at the speed of the disk."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factors.reading import unreadable

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 1 << 30


def copy_table(source: Path, target: Path, *, durable: bool = False) -> None:
    """Copy ``source`` to ``target`` byte for byte, atomically; never a link to it.

    A link would let RD-Agent's next ``to_parquet`` into the workspace truncate the source. File systems that
    can share blocks until one side is written (Btrfs, XFS) copy at no cost.

    Args:
        source: The file to copy.
        target: Where to; its folder must exist. A target that links to the source becomes a file of its own.
        durable: Whether to wait until the disk has it, which a copy in a workspace does not need.

    Raises:
        TableError: ``table-not-found`` or ``table-unreadable``.
        SotaError: ``cannot-write``.
    """
    if _lexical(source) == _lexical(target):
        raise SotaError(
            "cannot-write", f"Cannot copy {source} onto itself.", "Choose another place for the copy."
        )
    try:
        reader = source.open("rb")
    except FileNotFoundError as error:
        raise TableError(
            "table-not-found", f"SOTA factors file not found: {source}", "Check the path."
        ) from error
    except OSError as error:
        raise unreadable(source, error) from error
    with reader, replace_atomically(target, durable=durable) as temporary, temporary.open("r+b") as writer:
        _copy_bytes(reader, writer)


def _copy_bytes(reader: BinaryIO, writer: BinaryIO) -> None:
    size = os.fstat(reader.fileno()).st_size
    copied = 0
    if hasattr(os, "copy_file_range"):
        # Kernels and file systems refuse it in a dozen ways; what is missing is copied plainly below,
        # and a disk that is full says so again there.
        with suppress(OSError):
            while copied < size:
                moved = os.copy_file_range(reader.fileno(), writer.fileno(), min(_PIECE, size - copied))
                if moved == 0:
                    break
                copied += moved
    reader.seek(copied)
    writer.seek(copied)
    shutil.copyfileobj(reader, writer, 1 << 20)


def _lexical(path: Path) -> Path:
    return path.parent.resolve() / path.name

"""Keep a folder of the server's own within a limit: what was not used for longest goes first."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def make_room(folder: Path, limit: int) -> None:
    """Remove files and folders until the rest is within the limit; who is being sent a file has it open and gets it.

    Args:
        folder: What is in it, and nothing below, is kept or goes as a whole.
        limit: In bytes.
    """
    entries = sorted(_entries(folder))
    total = sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total <= limit:
            return
        # Another server that shares the folder may have been quicker.
        with suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        total -= size


def mark_used(path: Path) -> None:
    """Note that a file or folder is used now."""
    with suppress(FileNotFoundError):
        os.utime(path)


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            yield path.stat().st_mtime, sum(file.stat().st_size for file in files), path

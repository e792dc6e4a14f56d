"""Keep a folder of the server's own within a limit: what was not used for longest goes first."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from rdagent_sota_patch.work_folder import is_work, make_aside

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LEFT_BEHIND = 24 * 3600.0
"""Seconds."""


def make_room(folder: Path, limit: int) -> None:
    """Remove files and folders until the rest is within the limit; who is being sent a file has it open and gets it.

    What is hidden is on its way, perhaps in another server that shares the folder, and stays; after a day it counts as
    left behind.

    Args:
        folder: What is in it, and nothing below, is kept or goes as a whole.
        limit: In bytes.
    """
    entries = sorted(_entries(folder))
    total = sum(size for _, size, _ in entries)
    for _, size, path in entries:
        if total <= limit:
            return
        throw_out(path)
        total -= size


def put(made: Path, place: Path) -> None:
    """Put what was made aside in its place, unless another server was quicker: what it made of the same is as good.

    Raises:
        OSError: It cannot be put there.
    """
    try:
        made.rename(place)
    except OSError:
        if not place.exists():
            raise


def throw_out(path: Path) -> None:
    """Remove a file or folder at once, so that no other server that shares the folder finds half of it."""
    # Another server may have been quicker.
    with suppress(FileNotFoundError), make_aside(path.parent) as work:
        path.rename(work / path.name)


def mark_used(path: Path) -> None:
    """Note that a file or folder is used now."""
    with suppress(FileNotFoundError):
        os.utime(path)


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    now = time.time()
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            used = path.stat().st_mtime
            if path.name.startswith(".") and (is_work(path.name) or now - used < _LEFT_BEHIND):
                continue
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            yield used, sum(file.stat().st_size for file in files), path

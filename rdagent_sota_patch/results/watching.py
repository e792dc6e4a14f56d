"""Notice that a log has changed without reading it: names, sizes and times of its snapshots."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.sessions.logs import loop_folders, newest_snapshots
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class LogState:
    """A log at one moment, from the outside.

    Attributes:
        stamp: What changes whenever a snapshot is added or removed, or one of the newest loops is written to. Taken
            before a log is read, it differs from one that is taken later if a snapshot was being written meanwhile. A
            file of an older loop that is written over in place goes unnoticed: a log is read from its newest snapshot
            down, and RD-Agent, resumed at an older loop, removes what came after.
        written: When its newest snapshot was written, in seconds since the epoch; 0 where there is none.
    """

    stamp: bytes
    written: float


def look_at_log(log: Path) -> LogState:
    """Ask for the folders of a log, and for the snapshots of its newest loops."""
    loops = loop_folders(log)
    snapshots = newest_snapshots(loops)
    folders = [_describe(path) for path in (f"{log}/{SESSION_FOLDER}", *loops)]
    files = [_describe(path) for path in snapshots]
    return LogState(_digest(folders + files), _newest(files))


def stamp_files(paths: Iterable[Path]) -> bytes:
    """What changes whenever one of some files or folders is written, comes or goes."""
    return _digest(map(_describe, map(os.fspath, paths)))


_Facts = tuple[str, int, int, int]
"""Path, inode, size and time in nanoseconds; all three are 0 of what cannot be looked at."""


def _newest(files: Iterable[_Facts]) -> float:
    return max((nanoseconds for *_, nanoseconds in files), default=0) / 1e9


def _digest(facts: Iterable[_Facts]) -> bytes:
    return hashlib.blake2b(repr(list(facts)).encode(), digest_size=16).digest()


def _describe(path: str) -> _Facts:
    try:
        facts = os.stat(path)  # noqa: PTH116 - see loop_folders
    except (OSError, ValueError):
        return path, 0, 0, 0
    return path, facts.st_ino, facts.st_size, facts.st_mtime_ns

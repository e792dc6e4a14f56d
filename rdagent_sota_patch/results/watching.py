"""Notice that a log has changed without reading it: names, sizes and times of its snapshots."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, is_index

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NEWEST_LOOPS = 3
"""RD-Agent writes to several loops at a time, to each step's file once: older files are not asked for one by one."""


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
    loops = _loop_folders(log)
    snapshots = _newest_snapshots(loops)
    folders = [_describe(path) for path in (f"{log}/{SESSION_FOLDER}", *loops)]
    files = [_describe(path) for path in snapshots]
    return LogState(_digest(folders + files), _newest(files))


def last_written(log: Path) -> float:
    """When the newest snapshot was written, in seconds since the epoch; 0 where there is none that can be looked at."""
    return _newest(map(_describe, _newest_snapshots(_loop_folders(log))))


def stamp_files(paths: Iterable[Path]) -> bytes:
    """What changes whenever one of some files or folders is written, comes or goes."""
    return _digest(map(_describe, map(os.fspath, paths)))


_Facts = tuple[str, int, int, int]
"""Path, inode, size and time in nanoseconds; all three are 0 of what cannot be looked at."""


def _loop_folders(log: Path) -> list[str]:
    """Newest first. As text: paths as objects take several times as long."""
    session = f"{log}/{SESSION_FOLDER}"
    names = filter(is_index, _names(session))
    # By length first: as numbers, without reading them as such.
    return [f"{session}/{name}" for name in sorted(names, key=lambda name: (len(name), name), reverse=True)]


def _newest_snapshots(loops: list[str]) -> list[str]:
    return [f"{folder}/{name}" for folder in loops[:_NEWEST_LOOPS] for name in sorted(_names(folder))]


def _newest(files: Iterable[_Facts]) -> float:
    return max((nanoseconds for *_, nanoseconds in files), default=0) / 1e9


def _digest(facts: Iterable[_Facts]) -> bytes:
    return hashlib.blake2b(repr(list(facts)).encode(), digest_size=16).digest()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except OSError:
        # Gone meanwhile, or not to be entered: reading the log will say what is wrong.
        return []


def _describe(path: str) -> _Facts:
    try:
        facts = os.stat(path)  # noqa: PTH116 - see _loop_folders
    except (OSError, ValueError):
        return path, 0, 0, 0
    return path, facts.st_ino, facts.st_size, facts.st_mtime_ns

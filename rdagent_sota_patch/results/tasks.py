"""Which runs there are, looked up by id and never used as a path, and whether a log has changed, without reading it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.sessions.logs import is_log, list_runs, loop_folders, newest_snapshots
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


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


T = TypeVar("T")

LATEST = "latest"

_GOOD_FOR = 0.5
"""Seconds for which a listing of the root is good; a run that it lacks is looked for again at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run, whose id is the name of its log folder.

    Attributes:
        written: When its newest snapshot had been written when it was listed, in seconds since the epoch; else 0.
    """

    task_id: str
    log: Path
    written: float = 0.0


class TaskFolder:
    """The runs in one log root: its folders that hold a ``__session__``."""

    def __init__(self, root: Path) -> None:
        """Remember the root.

        Raises:
            ApiError: ``log-root-not-found``.
        """
        if not root.is_dir():
            raise ApiError(
                "log-root-not-found",
                f"{root.absolute()} is not a folder.",
                "Name the folder that holds the runs' log folders; RD-Agent writes them to ./log.",
            )
        self.root = root.absolute()
        self._lock = threading.Lock()
        self._known: dict[str, Task] = {}
        self._newest_first: tuple[Task, ...] = ()
        self._listed = float("-inf")

    def list(self) -> tuple[Task, ...]:
        """All runs, newest first.

        Raises:
            ApiError: ``log-root-not-found`` when it is gone.
        """
        with self._lock:
            if time.monotonic() - self._listed > _GOOD_FOR:
                self._newest_first = tuple(Task(run.log.name, *run) for run in self._list(list_runs))
                self._known = {task.task_id: task for task in self._newest_first}
                self._listed = time.monotonic()
            return self._newest_first

    def recall(self, task_id: str) -> Task | None:
        """A run that was there when last looked; whether it still is, the reading of its log says."""
        return self._known.get(task_id)

    def find(self, task_id: str) -> Task:
        """One run by its id.

        Raises:
            ApiError: ``task-not-found``.
        """
        folder = next((entry for entry in self._list(_entries) if entry.name == task_id), None)
        if folder is None or not is_log(folder):
            raise ApiError(
                "task-not-found",
                f"No run {task_id!r} on this server.",
                "GET /tasks lists the runs; `latest` is the newest one with an accepted factor experiment.",
            )
        task = Task(task_id, Path(folder.path))
        with self._lock:
            self._known[task_id] = task
        return task

    def _list(self, listing: Callable[[Path], tuple[T, ...]]) -> tuple[T, ...]:
        try:
            return listing(self.root)
        except OSError as error:
            raise ApiError(
                "log-root-not-found",
                f"The log root cannot be listed: {error.strerror or error}.",
                "Restore the folder, or start the server on another one.",
            ) from error


def _entries(root: Path) -> tuple[os.DirEntry[str], ...]:
    with os.scandir(root) as entries:
        return tuple(entries)

"""Which runs there are below the log root. A run is looked up by its id among them: an id never becomes a path."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping

LATEST = "latest"

_GOOD_FOR = 0.5
"""Seconds for which a listing of the root is good; a run that it lacks is looked for anew at once."""
_RECENT_LOOPS = 3
"""In a run with loops in parallel, the newest snapshot may be of one of the last loops but the very last."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run.

    Attributes:
        task_id: The name of its log folder.
        updated: When its newest snapshot was written, in seconds since the epoch; 0 where there is none.
    """

    task_id: str
    log: Path
    updated: float


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
                f"{root.absolute()} is no folder.",
                "Name the folder that holds the runs' log folders; RD-Agent writes them to ./log.",
            )
        self.root = root.absolute()
        self._lock = threading.Lock()
        self._found: Mapping[str, Task] = {}
        self._listed = float("-inf")

    def list(self) -> tuple[Task, ...]:
        """All runs, newest first.

        Raises:
            ApiError: ``log-root-not-found`` when it is gone.
        """
        found = self._look(good_for=_GOOD_FOR)
        return tuple(sorted(found.values(), key=lambda task: (-task.updated, task.task_id)))

    def recall(self, task_id: str) -> Task | None:
        """A run that was there when last looked; whether it still is, the reading of its log says."""
        return self._found.get(task_id)

    def find(self, task_id: str) -> Task:
        """One run by its id.

        Raises:
            ApiError: ``task-not-found``.
        """
        task = self._look(good_for=_GOOD_FOR / 10).get(task_id)
        if task is None:
            raise ApiError(
                "task-not-found",
                f"No run {task_id!r} on this server.",
                "GET /tasks lists the runs; `latest` is the newest one with an accepted factor experiment.",
            )
        return task

    def _look(self, *, good_for: float) -> Mapping[str, Task]:
        with self._lock:
            if time.monotonic() - self._listed > good_for:
                self._found = self._scan()
                self._listed = time.monotonic()
            return self._found

    def _scan(self) -> dict[str, Task]:
        try:
            with os.scandir(self.root) as entries:
                folders = [entry for entry in entries if _is_folder(entry)]
        except OSError as error:
            raise ApiError(
                "log-root-not-found",
                f"The log root cannot be listed: {error.strerror or error}.",
                "Restore the folder, or start the server on another one.",
            ) from error
        found = {}
        for folder in folders:
            written = last_written(Path(folder.path))
            if written is not None:
                found[folder.name] = Task(folder.name, Path(folder.path), written)
        return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # Such as a link that leads to itself.
        return False


def last_written(log: Path) -> float | None:
    """When the newest snapshot was written, in seconds since the epoch; None where the folder is no run's log."""
    session = log / SESSION_FOLDER
    try:
        with os.scandir(session) as entries:
            names = [entry.name for entry in entries if entry.name.isascii() and entry.name.isdecimal()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        # It is a run's, and reading it will say what is wrong.
        return 0.0
    newest = 0.0
    # By length first: as numbers, without reading them as such.
    for name in sorted(names, key=lambda name: (len(name), name), reverse=True)[:_RECENT_LOOPS]:
        try:
            with os.scandir(session / name) as entries:
                newest = max((entry.stat().st_mtime for entry in entries), default=newest)
        except OSError:
            # Removed meanwhile, or not to be entered: the others tell, and reading it will say what is wrong.
            continue
    return newest

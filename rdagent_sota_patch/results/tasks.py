"""Which runs there are below the log root. A run is looked up by its id among them: an id never becomes a path."""

from __future__ import annotations

import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.watching import last_written
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER

LATEST = "latest"

_GOOD_FOR = 0.5
"""Seconds for which a listing of the root is good; a run that it lacks is looked for anew at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run, whose id is the name of its log folder."""

    task_id: str
    log: Path


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
                tasks = [_task(folder) for folder in self._entries() if _is_log(folder)]
                tasks.sort(key=lambda task: (-last_written(task.log), task.task_id))
                self._known = {task.task_id: task for task in tasks}
                self._newest_first = tuple(tasks)
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
        folder = next((folder for folder in self._entries() if folder.name == task_id), None)
        if folder is None or not _is_log(folder):
            raise ApiError(
                "task-not-found",
                f"No run {task_id!r} on this server.",
                "GET /tasks lists the runs; `latest` is the newest one with an accepted factor experiment.",
            )
        task = _task(folder)
        with self._lock:
            self._known[task_id] = task
        return task

    def _entries(self) -> tuple[os.DirEntry[str], ...]:
        try:
            with os.scandir(self.root) as entries:
                return tuple(entries)
        except OSError as error:
            raise ApiError(
                "log-root-not-found",
                f"The log root cannot be listed: {error.strerror or error}.",
                "Restore the folder, or start the server on another one.",
            ) from error


def _task(folder: os.DirEntry[str]) -> Task:
    return Task(folder.name, Path(folder.path))


def _is_log(folder: os.DirEntry[str]) -> bool:
    try:
        if not folder.is_dir():
            return False
    except OSError:
        # Such as a link that leads to itself.
        return False
    try:
        return stat.S_ISDIR((Path(folder.path) / SESSION_FOLDER).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # It may well be a run's, and reading it will say what is wrong.
        return True

"""One process at a time in a run's folder, and whether a log is still being written."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, list_snapshots
from rdagent_sota_patch.stages.state import STATE_NAME, read_state

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_NAME = "rdagent-sota-run.lock"
_PATIENCE = 2.0
"""Seconds: a run that was just killed is gone by then, with what it started."""


@contextmanager
def hold_lock(folder: Path) -> Iterator[int]:
    """Hold the run's lock; yields its descriptor, which a child may hold on to.

    The lock is the kernel's: it goes with the processes that hold it, so a killed run leaves none behind.

    Raises:
        SotaError: ``run-in-use``, or ``cannot-write``.
    """
    path = folder / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SotaError(
            "cannot-write", f"Cannot write {path}: {error.strerror}.", "Check the folder's permissions."
        ) from error
    try:
        _acquire(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether some process is at work in the run's folder."""
    path = folder / LOCK_NAME
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _acquire(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
        holder = os.pread(descriptor, 200, 0).decode("utf-8", errors="replace") or "another process"
        raise SotaError(
            "run-in-use",
            f"The run in {folder} is being worked on by {holder}.",
            "Wait for it, or end that process; then go on with --resume.",
        )


_BETWEEN_LOOKS = 1.5
"""Seconds. RD-Agent writes something more often than that, save while a back-test runs."""


def require_settled(log: Path, *, pause: float = _BETWEEN_LOOKS) -> None:
    """Make sure that no other process is writing ``log``: looks twice, and asks the lock of its run if it has one.

    A run that writes nothing between the two looks is not noticed, unless ``rdagent-sota run`` started it.

    Raises:
        SotaError: ``log-being-written``.
    """
    for folder in _runs_of(log):
        if is_locked(folder):
            raise _written(log, f"the run in {folder} is still going on")
    before = _newest(log)
    time.sleep(pause)
    if (after := _newest(log)) != before:
        raise _written(log, f"{after[0] if after else log} changed while it was looked at")


def _runs_of(log: Path) -> Iterator[Path]:
    for path in log.absolute().parent.glob(f"*/{STATE_NAME}"):
        try:
            state = read_state(path.parent)
        except SotaError:
            continue  # Another version's, or not a run's: it says nothing about this log.
        if state.factor.log == log.absolute():
            yield path.parent


def _newest(log: Path) -> tuple[Path, int, int] | None:
    snapshots, _ = list_snapshots(log / SESSION_FOLDER)
    if not snapshots:
        return None
    path = snapshots[0].path
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return path, facts.st_mtime_ns, facts.st_size


def _written(log: Path, why: str) -> SotaError:
    return SotaError(
        "log-being-written",
        f"The factor log {log} is still being written: {why}.",
        "Wait until that run is done, or stop it; or name one of its snapshots, which pins that moment.",
    )

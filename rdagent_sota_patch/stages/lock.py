"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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

"""What runs *inside* the jail so that ``multiprocessing`` works there: its locks and semaphores, made of pipes.

Those of the standard library are named semaphores in shared memory, which the jail keeps closed: it belongs to no
process, so that no limit would count it. A pipe does as well between forks. It holds a byte for each time the semaphore
can be acquired.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios
import threading
import time
from types import SimpleNamespace
from typing import Any

_RECURSIVE = 0
_PIPE = 4096
"""Bytes that a pipe holds on every system; a semaphore that starts with more is one that no thread waits for."""


class PipeSemaphore:
    """In the place of ``_multiprocessing.SemLock``, for processes that are forked."""

    SEM_VALUE_MAX = 2**31 - 1

    def __init__(self, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> None:
        self.kind, self.maxvalue, self.name = kind, maxvalue, name
        self.handle = 0
        self._held = 0
        self._thread = 0
        self._endless = value > _PIPE
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        if not self._endless:
            os.write(self._write, b"." * value)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """As `threading.Lock.acquire`, with None for no end of waiting."""
        if self.kind == _RECURSIVE and self._is_mine():
            self._held += 1
            return True
        if not self._endless and not self._take(block, timeout):
            return False
        self._held += 1
        self._thread = threading.get_ident()
        return True

    def _take(self, block: bool, timeout: float | None) -> bool:
        until = None if timeout is None else time.monotonic() + max(timeout, 0.0)
        while True:
            try:
                return bool(os.read(self._read, 1))
            except BlockingIOError:
                left = None if until is None else until - time.monotonic()
                if not block or (left is not None and left <= 0):
                    return False
                select.select([self._read], [], [], left)

    def release(self) -> None:
        """Raises AssertionError or ValueError, as the standard library does, where it was not acquired."""
        if self.kind == _RECURSIVE:
            assert self._is_mine(), "attempt to release recursive lock not owned by thread"
            if self._held > 1:
                self._held -= 1
                return
        elif not self._endless and self._get_value() >= self.maxvalue:
            raise ValueError("semaphore or lock released too many times")
        self._held -= 1
        if not self._endless:
            os.write(self._write, b".")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _count(self) -> int:
        return self._held

    def _is_mine(self) -> bool:
        return self._held > 0 and self._thread == threading.get_ident()

    def _get_value(self) -> int:
        if self._endless:
            return self.maxvalue
        size = fcntl.ioctl(self._read, termios.FIONREAD, b"\0\0\0\0")
        return int(struct.unpack("i", size)[0])

    def _is_zero(self) -> bool:
        return self._get_value() == 0

    def _after_fork(self) -> None:
        self._held = 0


def make_locks_of_pipes() -> None:
    """From now on ``multiprocessing`` forks, and takes these."""
    import multiprocessing.context
    from multiprocessing import synchronize

    contexts: Any = multiprocessing.context
    contexts._default_context._default_context = multiprocessing.get_context("fork")
    # Not in `_multiprocessing`: joblib looks there whether semaphores work, and has its own that do not.
    synchronize._multiprocessing = SimpleNamespace(SemLock=PipeSemaphore)  # type: ignore[attr-defined]

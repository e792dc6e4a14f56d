"""Logs read in processes that can be ended: none of them keeps the server, or another log, waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.sessions.signature import find_key
from rdagent_sota_patch.sessions.snapshots import read_session

if TYPE_CHECKING:
    from rdagent_sota_patch.sessions.records import Session

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from rdagent_sota_patch.results.reader_process import main; main()"
_AT_A_TIME = 2
"""Logs that are read side by side, and as many again that take long: each may take a gigabyte."""
_SOON = 0.5
"""Seconds after which a reading counts as one that takes long, and makes room for another."""
_LONGEST = 300.0


class Reader:
    """Reads logs, one or several at a time, from any thread."""

    def __init__(self) -> None:
        """Nothing is started until the first log is read."""
        self._soon = threading.BoundedSemaphore(_AT_A_TIME)
        self._long = threading.BoundedSemaphore(_AT_A_TIME)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    def read(self, log: Path) -> Session:
        """Read a run's history; see `read_session`.

        Raises:
            SotaError: What `read_session` raises; ``snapshot-too-large`` also for more factors than can be served;
                ``reading-took-too-long``.
        """
        key = find_key()
        if not hasattr(os, "fork"):
            return read_session(log, key=key)
        with self._soon:
            reading = self._begin(log, key)
            if reading.ended.wait(_SOON):
                return reading.result()
            goes_on = self._long.acquire(blocking=False)
            if not goes_on:
                reading.end()
        if not goes_on:
            self._long.acquire()
        try:
            if not goes_on:
                reading = self._begin(log, key)
            if not reading.ended.wait(_LONGEST):
                reading.end()
                raise ApiError(
                    "reading-took-too-long",
                    f"The log {log} was not read within {_LONGEST:.0f} seconds.",
                    "See with rdagent-sota inspect what takes so long.",
                )
            return reading.result()
        finally:
            self._long.release()

    def make_ready(self) -> None:
        """Start the process that reads, if it does not run, and wait until it can."""
        if hasattr(os, "fork"):
            with self._lock:
                self._started()

    def close(self) -> None:
        """End what is being read; nothing else is begun."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.stop()

    def _begin(self, log: Path, key: bytes | None) -> _Reading:
        with self._lock:
            return self._started().begin(log, key)

    def _started(self) -> _Process:
        if self._closed:
            raise ApiError("server-stopping", "The server is being stopped.", "Ask again when it is back.")
        if self._process is None or self._process.over:
            self._process = _Process()
        return self._process


class _Reading:
    """One log that is being read.

    Attributes:
        ended: Set when its process has ended, in whatever way.
    """

    def __init__(self, process: _Process, number: int, log: Path) -> None:
        self.ended = threading.Event()
        self._process = process
        self._number = number
        self._log = log
        self.target = process.folder / f"{number}"

    def end(self) -> None:
        """End it, and wait until it is gone."""
        self._process.say({"end": self._number})
        self.ended.wait(_LONGEST)
        self.target.unlink(missing_ok=True)

    def result(self) -> Session:
        """What was read.

        Raises:
            SotaError: What was wrong with the log.
        """
        from rdagent_sota_patch.results.reader_process import unpack

        try:
            outcome = unpack(self.target.read_bytes())
        except OSError:
            raise SotaError(
                "no-readable-snapshot",
                f"The process that read {self._log} ended without a result; it may have needed too much memory.",
                "See with rdagent-sota inspect what it says.",
            ) from None
        finally:
            self.target.unlink(missing_ok=True)
        if isinstance(outcome, SotaError):
            raise outcome
        return outcome


class _Process:
    """The process that forks one for each log."""

    def __init__(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="rdagent-sota-read-")
        self.folder = Path(folder.name)
        self._readings: dict[int, _Reading] = {}
        self._count = 0
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *filter(None, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdin is not None and process.stdout is not None
        self._orders: IO[bytes] = process.stdin
        self._lock = threading.Lock()
        ready = threading.Event()
        self._listener = threading.Thread(
            target=_listen, args=(process.stdout, self._readings, ready), name="reader", daemon=True
        )
        self._listener.start()
        ready.wait()
        self.stop = weakref.finalize(self, _stop, process, folder)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._listener.is_alive()

    def begin(self, log: Path, key: bytes | None) -> _Reading:
        """Have a log read."""
        self._count += 1
        reading = self._readings[self._count] = _Reading(self, self._count, log)
        self.say(
            {
                "id": self._count,
                "log": os.fspath(log.absolute()),
                "key": None if key is None else key.hex(),
                "target": str(reading.target),
            }
        )
        return reading

    def say(self, order: dict[str, object]) -> None:
        """Give an order."""
        with self._lock:
            try:
                self._orders.write(json.dumps(order).encode() + b"\n")
                self._orders.flush()
            except (OSError, ValueError):
                # It is gone: the listener tells all who wait.
                pass


def _listen(said: IO[bytes], readings: dict[int, _Reading], ready: threading.Event) -> None:
    for line in said:
        if int(line):
            readings.pop(int(line)).ended.set()
        ready.set()
    said.close()
    ready.set()
    for reading in list(readings.values()):
        reading.ended.set()


def _stop(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    folder.cleanup()

"""Logs read in processes that can be ended: none of them keeps the server, or another log, waiting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.sessions.signature import find_key
from rdagent_sota_patch.sessions.snapshots import read_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rdagent_sota_patch.results.curves import Curves
    from rdagent_sota_patch.results.describing import RunOutline
    from rdagent_sota_patch.sessions.records import Session

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from rdagent_sota_patch.results.reader_process import main; main()"
_AT_A_TIME = 2
"""Logs that are read side by side, and as many again that take long: each may take a gigabyte."""
_SOON = 0.5
"""Seconds after which a reading counts as one that takes long, and makes room for another."""
_LONGEST = 300.0
_LONGEST_CURVES = 20.0
_LONGEST_OUTLINE = 10.0
"""Seconds for each log of many: a list is to come soon, and says of a slow one that it is."""
_OFTEN = 0.02
"""Seconds between two looks for the next outline."""


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
            reading = self._begin({"log": os.fspath(log.absolute())}, key)
            if reading.ended.wait(_SOON):
                return reading.result()
            goes_on = self._long.acquire(blocking=False)
            if not goes_on:
                reading.end()
        if not goes_on:
            self._long.acquire()
        try:
            if not goes_on:
                reading = self._begin({"log": os.fspath(log.absolute())}, key)
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

    def outline(self, logs: Sequence[Path]) -> Iterator[tuple[int, RunOutline | SotaError]]:
        """The outlines of many runs with their places in ``logs``, or what is wrong with a log; each once it is known.

        One process reads one log after the other. A log that takes long makes room for the others and is read after
        them; one that takes too long, or more memory than there is, is given up.
        """
        key = find_key()
        waiting = list(range(len(logs)))
        for patience in (_SOON, _LONGEST_OUTLINE):
            slow: list[int] = []
            while waiting:
                if not hasattr(os, "fork"):
                    yield waiting[0], _outline_here(logs[waiting[0]], key)
                    del waiting[0]
                    continue
                reading = self._begin({"logs": [os.fspath(logs[each].absolute()) for each in waiting]}, key)
                done = 0
                try:
                    for outcome in reading.outlines(patience):
                        yield waiting[done], outcome
                        done += 1
                    if done < len(waiting):
                        place, in_time = waiting[done], reading.ended.is_set()
                        if in_time or patience == _LONGEST_OUTLINE:
                            yield place, _gave_none(logs[place], in_time=in_time)
                        else:
                            slow.append(place)
                finally:
                    reading.end()
                del waiting[: done + 1]
            waiting = slow

    def read_curves(self, workspace: Path, hint: Mapping[str, Any] | None) -> Curves:
        """Read the lines of the back-test in a workspace.

        Args:
            workspace: On this machine.
            hint: What the session recorded about the weights of that back-test.

        Raises:
            SotaError: ``reading-took-too-long``, or its process ended without a result.
        """
        if not hasattr(os, "fork"):
            from rdagent_sota_patch.mlruns.recorder import parse_hint
            from rdagent_sota_patch.results.curves import read_curves

            return read_curves(workspace, None if hint is None else parse_hint(hint))
        with self._soon:
            reading = self._begin(
                {"workspace": os.fspath(workspace), "hint": None if hint is None else dict(hint)}, None
            )
            if not reading.ended.wait(_LONGEST_CURVES):
                reading.end()
                raise ApiError(
                    "reading-took-too-long",
                    f"The back-test in {workspace} was not read within {_LONGEST_CURVES:.0f} seconds.",
                    "See how large its files below mlruns are.",
                )
            curves: Curves = reading.take()
            return curves

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

    def _begin(self, what: dict[str, object], key: bytes | None) -> _Reading:
        with self._lock:
            return self._started().begin(what, key)

    def _started(self) -> _Process:
        if self._closed:
            raise ApiError("server-stopping", "The server is being stopped.", "Ask again when it is back.")
        if self._process is None or self._process.over:
            self._process = _Process()
        return self._process


class _Reading:
    """A process that reads one log, or several.

    Attributes:
        ended: Set when its process has ended, in whatever way.
    """

    def __init__(self, process: _Process, number: int, what: dict[str, object]) -> None:
        self.ended = threading.Event()
        self._process = process
        self._number = number
        self._log = what.get("log") or what.get("workspace")
        self.target = process.folder / f"{number}"

    def end(self) -> None:
        """End it, and wait until it is gone."""
        self._process.say({"end": self._number})
        self.ended.wait(_LONGEST)
        self.target.unlink(missing_ok=True)

    def result(self) -> Session:
        """The session that was read; see `take` for what it raises."""
        session: Session = self.take()
        return session

    def take(self) -> Any:
        """What was read.

        Raises:
            SotaError: What was wrong with the log.
        """
        from rdagent_sota_patch.results.reader_process import unpack

        try:
            outcome = unpack(self.target.read_bytes())
        except OSError:
            raise _gave_none(self._log, in_time=True) from None
        finally:
            self.target.unlink(missing_ok=True)
        if isinstance(outcome, SotaError):
            raise outcome
        return outcome

    def outlines(self, patience: float) -> Iterator[RunOutline | SotaError]:
        """What it has read, as it comes; ends with its process, or when the next takes ``patience`` seconds."""
        from rdagent_sota_patch.results.reader_process import LENGTH, unpack

        place, since = 0, time.monotonic()
        while time.monotonic() - since < patience:
            # Asked before the file is read: what is written by then is all that comes.
            over = self.ended.wait(_OFTEN)
            content = self._read_from(place)
            while len(content) >= LENGTH:
                end = LENGTH + int.from_bytes(content[:LENGTH], "big")
                if len(content) < end:
                    break
                yield unpack(content[LENGTH:end])
                content, place, since = content[end:], place + end, time.monotonic()
            if over:
                return

    def _read_from(self, place: int) -> memoryview:
        try:
            with self.target.open("rb") as file:
                file.seek(place)
                return memoryview(file.read())
        except FileNotFoundError:
            return memoryview(b"")


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

    def begin(self, what: dict[str, object], key: bytes | None) -> _Reading:
        """Have a log read, or several."""
        self._count += 1
        reading = self._readings[self._count] = _Reading(self, self._count, what)
        self.say(
            {
                **what,
                "id": self._count,
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


def _outline_here(log: Path, key: bytes | None) -> RunOutline | SotaError:
    from rdagent_sota_patch.results.describing import outline_run

    try:
        return outline_run(read_session(log, key=key))
    except SotaError as error:
        return error


def _gave_none(log: object, *, in_time: bool) -> SotaError:
    if in_time:
        return SotaError(
            "no-readable-snapshot",
            f"The process that read {log} ended without a result; it may have needed too much memory.",
            "See with rdagent-sota inspect what it says.",
        )
    return ApiError(
        "reading-took-too-long",
        f"The log {log} was not read within {_LONGEST_OUTLINE:.0f} seconds.",
        "rdagent-sota inspect reads it, however long that takes.",
    )


def _stop(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
    folder.cleanup()

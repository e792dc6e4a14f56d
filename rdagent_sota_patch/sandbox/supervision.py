"""Time, sums and prints of one confined run, and its ending."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.consumption import TOO_MUCH, ProcessTree, folder_size, free_space
from rdagent_sota_patch.sandbox.interpreter import package_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdagent_sota_patch.sandbox.launcher import Order
    from rdagent_sota_patch.sandbox.limits import Limits


class Printed:
    """The first and the last of what was added, ``limit`` bytes together; the middle is only counted."""

    def __init__(self, limit: int) -> None:
        self._first = bytearray()
        self._last: deque[bytes] = deque()
        self._last_size = 0
        self._left_out = 0
        self._half = limit // 2

    def add(self, part: bytes) -> None:
        """Add what was read."""
        room = self._half - len(self._first)
        if room > 0:
            self._first += part[:room]
            part = part[room:]
        if not part:
            return
        self._last.append(part)
        self._last_size += len(part)
        while self._last_size > self._half:
            oldest = self._last.popleft()
            surplus = min(len(oldest), self._last_size - self._half)
            self._left_out += surplus
            self._last_size -= surplus
            if surplus < len(oldest):
                self._last.appendleft(oldest[surplus:])

    def text(self) -> str:
        """All of it as text, with a line that says how much was left out."""
        gap = f"\n… {self._left_out:,} bytes left out …\n".encode() if self._left_out else b""
        return (bytes(self._first) + gap + b"".join(self._last)).decode("utf-8", errors="replace")


_MIB = 1024 * 1024
_LOOK_EVERY = 0.1
_KEPT_FREE = 1024 * _MIB  # of the disk, for everybody else; half of what is free, where that is less
_PATIENCE = 20.0  # for the launcher to end all; the kernel takes a while to free much memory
_LAUNCH = (
    "import sys; sys.path.append({root!r}); from rdagent_sota_patch.sandbox.launcher import main; main()"
)

# How libraries say that memory, or room in a file, was refused to them.
_OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Unable to allocate", "Cannot allocate memory", "malloc failed")
_FILE_TOO_LARGE = ("File too large", "errno = 27", "Errno 27")
_DISK_FULL = ("No space left on device", "errno = 28", "Errno 28")


class Ending(Enum):
    """How a confined program ended."""

    FINISHED = "finished"
    FAILED = "failed"
    OVER_TIME = "over its time"
    OVER_MEMORY = "over its memory"
    OVER_OUTPUT = "over its output"
    OVER_THREADS = "over its processes"
    DISK_FULL = "out of room on the disk"


@dataclass(frozen=True, slots=True)
class Ended:
    """One run, over.

    Attributes:
        ending: How it ended.
        log: What it printed, bounded; output and errors as they came.
        seconds: How long it ran.
        code: Exit code, negative for a signal; None when it was ended from here.
    """

    ending: Ending
    log: str
    seconds: float
    code: int | None

    def last_words(self, lines: int = 3) -> str:
        """The end of what it printed, where a traceback says what went wrong."""
        return " / ".join([line.strip() for line in self.log.splitlines() if line.strip()][-lines:])


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Memory and files in bytes, and until when on the monotonic clock.

    Attributes:
        given: What of the files was there before.
        free: Room on the disk before.
        kept_free: Room that is left on it for others.
    """

    memory: int
    files: int
    deadline: float
    given: int
    free: int
    kept_free: int


def supervise(order: Callable[[int], Order], folder: Path, limits: Limits) -> Ended:
    """Run the order that is made for a report descriptor to its end, or to the first limit it reaches.

    Nothing of it is left running, whatever happens here.

    Raises:
        BundleError: ``confinement-failed`` when the walls could not be put up; the program has not run then.
    """
    try:
        given, free = folder_size(folder), free_space(folder)
    except OSError as error:
        raise BundleError(
            "confinement-failed", f"The disk of the private folder cannot be looked at: {error}."
        ) from error
    if given == TOO_MUCH:
        raise BundleError(
            "confinement-failed",
            "The files that a confined program is to be given are too many, or lie too deep, to be counted.",
            "Give a folder with fewer files.",
        )
    report, write_report = os.pipe()
    try:
        made = order(write_report)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", _LAUNCH.format(root=package_root())],
            env={},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(write_report,),
        )
    except OSError as error:
        os.close(report)
        raise BundleError(
            "confinement-failed",
            f"A confined process could not be started: {error}.",
            "The system may have too many processes, or too little memory, for one more.",
        ) from error
    except BaseException:
        os.close(report)
        raise
    finally:
        os.close(write_report)
    started = time.monotonic()
    bounds = _Bounds(
        memory=limits.memory_mb * _MIB,
        files=limits.output_mb * _MIB + given,  # What it was given is not its output.
        deadline=started + limits.seconds,
        given=given,
        free=free,
        kept_free=min(_KEPT_FREE, free // 2),
    )
    printed = Printed(limits.log_kb * 1024)
    with os.fdopen(report, "rb") as reported:
        try:
            assert process.stdin is not None
            process.stdin.write(made.as_line())
            process.stdin.flush()
            over = _watch(process, printed, made, bounds)
        except BrokenPipeError:  # The launcher could not even start; what it printed says why.
            over = None
        finally:
            seconds = time.monotonic() - started
            _end(process, printed)
        answer = reported.read()
    return _judge(over, answer, printed.text(), seconds)


def _watch(
    process: subprocess.Popen[bytes],
    printed: Printed,
    order: Order,
    bounds: _Bounds,
) -> Ending | None:
    """Read along until the launcher has ended (None), or the program went over a limit (which)."""
    assert process.stdout is not None
    output = process.stdout.fileno()
    tree = ProcessTree(process.pid, Path(order.folder))
    next_look = time.monotonic() + _LOOK_EVERY
    while True:
        now = time.monotonic()
        if now >= bounds.deadline:
            return Ending.OVER_TIME
        if now >= next_look:
            over = _over(tree, order, bounds)
            if over is not None:
                return over
            # Looking may take a while where there is much to see; it must not become the main thing.
            next_look = time.monotonic() + min(1.0, max(_LOOK_EVERY, 10 * (time.monotonic() - now)))
        readable, _, _ = select.select(
            [output], [], [], max(0.0, min(next_look, bounds.deadline) - time.monotonic())
        )
        if readable:
            part = os.read(output, 65536)
            if not part:
                process.wait(timeout=_PATIENCE)
                return None
            printed.add(part)


def _over(tree: ProcessTree, order: Order, bounds: _Bounds) -> Ending | None:
    """Which limit the program is over at this moment."""
    usage = tree.usage()
    if usage.memory > bounds.memory:
        return Ending.OVER_MEMORY
    if usage.threads > order.threads:
        return Ending.OVER_THREADS
    folder = Path(order.folder)
    files = usage.hidden_files + folder_size(folder)
    free = free_space(folder)
    if usage.unmeasured:  # Then what is gone from the disk is held against it, whoever took it.
        files = max(files, bounds.given + bounds.free - free)
    if files > bounds.files:
        return Ending.OVER_OUTPUT
    return Ending.DISK_FULL if free < bounds.kept_free else None


def _end(process: subprocess.Popen[bytes], printed: Printed) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()  # What the launcher waits for.
    deadline = time.monotonic() + _PATIENCE
    with process.stdout as rest:
        # Where the system cannot find every process that was started, one may keep the pipe open.
        while select.select([rest], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(rest.fileno(), 65536)
            if not part:
                break
            printed.add(part)
    try:
        process.wait(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _judge(over: Ending | None, answer: bytes, log: str, seconds: float) -> Ended:
    if over is not None:
        return Ended(over, log, seconds, None)
    fields = json.loads(answer) if answer else {"refused": f"the launcher ended: {log[-500:]}"}
    if "refused" in fields:
        raise BundleError(
            "confinement-failed",
            f"A confined process could not be started: {fields['refused']}.",
            "Nothing was run. Inside, even root has only the rights of a file's owner: this Python, its packages and "
            "the inputs have to be readable so.",
        )
    if "too_many" in fields:
        return Ended(Ending.OVER_THREADS, log, seconds, None)
    if "out_of_memory" in fields:
        return Ended(Ending.OVER_MEMORY, log, seconds, None)
    code = int(fields["code"])
    if code == 0:
        return Ended(Ending.FINISHED, log, seconds, code)
    return Ended(which_limit(log[-4000:]), log, seconds, code)


def which_limit(words: str) -> Ending:
    """Of a failed program, from its last words: whether a limit was refused to it, and which."""
    if any(refusal in words for refusal in _OUT_OF_MEMORY):
        return Ending.OVER_MEMORY
    if any(refusal in words for refusal in _FILE_TOO_LARGE):
        return Ending.OVER_OUTPUT
    if any(refusal in words for refusal in _DISK_FULL):
        return Ending.DISK_FULL
    return Ending.FAILED

"""Faults at the boundary of the kernel: a forked process whose n-th system call of a name fails, or in which it dies.

strace does it, attached to the fork, so that calls of C libraries are met like Python's own. A call is numbered within
its thread, from the moment at which the work begins: what was imported before does not count.
"""

from __future__ import annotations

import importlib
import mmap
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_patch.errors import SotaError

CREATING = "openat"
"""Counted like the others; it is a point of interest only where it makes a file."""

CALLS = (
    *("write", "pwrite64", "writev", "copy_file_range", "sendfile", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "mkdir", "mkdirat", CREATING),
    *("link", "linkat", "unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "flock"),
)
ERRORS = ("KILL", "ENOSPC", "EIO", "EACCES")
_REPORT = 1 << 16
_LINE = re.compile(r"(\d+)\s+(\w+)\(")


@dataclass(frozen=True)
class Point:
    """One call in the work.

    Attributes:
        number: It is the n-th of its name in its thread.
        line: As strace shows it.
    """

    call: str
    number: int
    line: str


@dataclass(frozen=True)
class Outcome:
    """How a fork ended.

    Attributes:
        slug: Of the `SotaError` that it raised; empty where it ended well.
        foreign: Any other exception.
        injected: Whether the fault came to pass.
    """

    killed: bool = False
    slug: str = ""
    foreign: str = ""
    injected: bool = False
    timed_out: bool = False


def strace_reason() -> str:
    """Why faults cannot be injected here; empty where they can."""
    if shutil.which("strace") is None:
        return "strace is missing: install it"
    done = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, text=True, check=False
    )
    return done.stderr.strip() if done.returncode else ""


def import_like(act: Callable[[], None]) -> None:
    """Import what the work imports, so that each fork has it: a fork does it once and tells."""
    shared = mmap.mmap(-1, 1 << 22)

    def tell() -> None:
        act()
        said = pickle.dumps(sorted(sys.modules))
        shared[: len(said)] = said

    outcome = run_forked(tell)
    if outcome != Outcome():
        raise RuntimeError(f"the work fails without any fault: {outcome}")
    for name in pickle.loads(shared[:]):
        with suppress(Exception):
            importlib.import_module(name)


def find_points(act: Callable[[], None], watched: re.Pattern[str], log: Path) -> list[Point]:
    """Do the work once, and list its calls on files that ``watched`` matches."""
    outcome = run_forked(act, ("-e", f"trace={','.join(CALLS)}"), log)
    if outcome != Outcome():
        raise RuntimeError(f"the work fails without any fault: {outcome}")
    counts: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], Point] = {}
    for line in log.read_text(errors="replace").splitlines():
        begun = _LINE.match(line)
        if begun is None:
            continue
        counts[begun[1], begun[2]] += 1
        if watched.search(line) and (begun[2] != CREATING or "O_CREAT" in line):
            number = counts[begun[1], begun[2]]
            found.setdefault((begun[2], number), Point(begun[2], number, line))
    return list(found.values())


def inject(act: Callable[[], None], point: Point, error: str, log: Path) -> Outcome:
    """Do the work with a fault at one call."""
    what = "signal=SIGKILL" if error == "KILL" else f"error={error}"
    options = ("-e", f"trace={point.call}", "-e", f"inject={point.call}:{what}:when={point.number}")
    return run_forked(act, options, log)


def run_forked(
    act: Callable[[], None], strace: Sequence[str] = (), log: Path | None = None, seconds: float = 120
) -> Outcome:
    """Do the work in a fork, watched by strace where options for it are given."""
    # Shared memory takes no system call to report in, which might be the one that fails.
    shared = mmap.mmap(-1, _REPORT)
    gate = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(gate[1])
            os.read(gate[0], 1)
            _report(act, shared)
        finally:
            os._exit(0)
    os.close(gate[0])
    tracer = None
    if strace:
        command = ["strace", "-f", "-y", "-qq", "-s", "0", "-o", str(log), *strace, "-p", str(child)]
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_until_traced(child, tracer)
    os.close(gate[1])
    status, timed_out = _wait(child, seconds)
    if tracer is not None:
        tracer.wait(10)
    slug, foreign = pickle.loads(shared[:]) if shared[0] else ("", "")
    text = log.read_text(errors="replace") if strace and log is not None else ""
    killed = os.WIFSIGNALED(status)
    # A call at whose entrance the process is killed is not always shown.
    return Outcome(killed, slug, foreign, "INJECTED" in text or killed, timed_out)


def _report(act: Callable[[], None], shared: mmap.mmap) -> None:
    slug = foreign = ""
    try:
        act()
    except SotaError as error:
        slug = error.problems[0].slug
    except BaseException as error:  # noqa: BLE001 - what it is, the proof has to say
        foreign = f"{type(error).__name__}: {error}"[:2000]
    said = pickle.dumps((slug, foreign))
    shared[: len(said)] = said


def _wait_until_traced(child: int, tracer: subprocess.Popen[bytes]) -> None:
    status = Path(f"/proc/{child}/status")
    deadline = time.monotonic() + 10
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("strace cannot attach")
        time.sleep(0.001)
    # Attached is not yet stopped and let go on.
    time.sleep(0.01)


def _wait(child: int, seconds: float) -> tuple[int, bool]:
    deadline = time.monotonic() + seconds
    pause, timed_out = 0.0005, False
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status, timed_out
        if time.monotonic() > deadline and not timed_out:
            timed_out = True
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)

"""Ctrl-C: a command ends within two seconds, and says what it leaves behind."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

EXIT_CODE = 128 + signal.SIGINT

_SECONDS = 1.2
"""For an orderly end; after that, what still waits for a thread or a child is ended with the process."""

_LEFT = {
    "ablate": "With --out, what was tried is kept: run it again to go on.",
    "audit": "No verdict was kept.",
    "demo": "Its folder keeps what had run until now; --force runs the demonstration again there.",
    "export": "No bundle was written; an unfinished hidden folder beside it goes with the next export.",
    "library": "Each factor in it is as it was, or as it was to be; a factor file is what it was before.",
    "predict": "Of the day under way, no file was written; lists of earlier days of a range are whole.",
    "run": "What its finished steps did is kept: go on with rdagent-sota run --resume.",
    "save": "The factor file is what it was before.",
    "sync": "The folder is what it was before; files that arrived wait in a hidden one beside it for the next sync.",
}


def watch_for_interrupt(command: str) -> Callable[[], None]:
    """Have Ctrl-C end this process in time, from now on.

    The first one raises ``KeyboardInterrupt``, as always, so that everything is put in order. Where that waits too
    long, and at a second one, the process ends at once; confined code ends with it.

    Args:
        command: Which one is running.

    Returns:
        What puts the handler back that was there before.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    timer = threading.Timer(_SECONDS, _end, (command,))
    timer.daemon = True
    interrupted = False

    def interrupt(_: int, __: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            _end(command)
        interrupted = True
        timer.start()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)

    def restore() -> None:
        timer.cancel()
        signal.signal(signal.SIGINT, before)

    return restore


def tell_interruption(command: str) -> Problem:
    """What is said of a command that was interrupted."""
    left = _LEFT.get(command.partition(" ")[0], "It leaves nothing behind.")
    return Problem("command-interrupted", f"rdagent-sota {command} was stopped by Ctrl-C. {left}")


def _end(command: str) -> None:
    """End this process now, with the children of its own session: confined ones and guarded runs end by themselves."""
    problem = tell_interruption(command)
    with suppress(OSError):
        os.write(2, f"\n! {problem.message}  [{problem.slug}]\n".encode())
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError, ValueError):
            for child in map(int, listed.read_text().split()):
                if os.getsid(child) == os.getsid(0):
                    os.kill(child, signal.SIGKILL)
    os._exit(EXIT_CODE)

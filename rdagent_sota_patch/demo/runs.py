"""One command as a subprocess: followed while it runs, frozen into a result when it is done."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.output import Skip, Step, parse_line, remove_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_TAIL_LINES = 30


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one ``rdagent`` command ended.

    Attributes:
        log: The run's log folder, which holds ``__session__``.
        output_file: Everything it printed.
        skipped: Loops that RD-Agent gave up, with its reason.
    """

    command: tuple[str, ...]
    exit_code: int
    log: Path
    output_file: Path
    seconds: float
    skipped: tuple[tuple[int, str], ...] = ()

    @property
    def output(self) -> str:
        """Everything the run printed, without colours."""
        return remove_colours(self.output_file.read_text(encoding="utf-8", errors="replace"))

    @property
    def failure(self) -> str:
        """What went wrong, in one line; empty when all loops were run to their end."""
        if self.exit_code:
            return f"it ended with exit code {self.exit_code}"
        return "; ".join(f"RD-Agent skipped loop {loop}: {reason[:200]}" for loop, reason in self.skipped)

    def tail(self) -> str:
        """The last lines of the output."""
        return "\n".join(self.output.splitlines()[-_TAIL_LINES:])


def follow(
    command: Sequence[str],
    *,
    cwd: Path,
    variables: Mapping[str, str],
    log: Path,
    output_file: Path,
    on_step: Callable[[Step], None] | None,
    timeout: float,
) -> RunResult:
    """Run ``command`` to its end, writing down what it prints and reporting its steps.

    Raises:
        SotaError: ``run-failed`` when it took longer than ``timeout`` seconds; it is then stopped.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    timed_out = threading.Event()

    def stop_late_run() -> None:
        timed_out.set()
        _kill_group(process)

    timer = threading.Timer(timeout, stop_late_run)
    timer.start()
    skipped: list[tuple[int, str]] = []
    try:
        assert process.stdout is not None
        with process.stdout, output_file.open("wb") as out:
            for line in process.stdout:
                out.write(line)
                out.flush()
                event = parse_line(line.decode("utf-8", errors="replace"))
                if isinstance(event, Skip):
                    skipped.append((event.loop, event.reason))
                elif isinstance(event, Step) and on_step is not None:
                    on_step(event)
        exit_code = process.wait()
    finally:
        timer.cancel()
        _kill_group(process)
    if timed_out.is_set():
        raise SotaError(
            "run-failed",
            f"{' '.join(command)} was stopped after {timeout:.0f} seconds.",
            f"What it printed until then is in {output_file}.",
        )
    return RunResult(
        command=tuple(command),
        exit_code=exit_code,
        log=log,
        output_file=output_file,
        seconds=time.monotonic() - started,
        skipped=tuple(skipped),
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the command and whatever it started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()

"""One command as a guarded subprocess, its output written down and read along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_GUARD = Path(__file__).with_name("guard.py")


def follow(
    command: Sequence[str],
    *,
    cwd: Path,
    variables: Mapping[str, str],
    output_file: Path,
    on_line: Callable[[str], None],
    lock: int,
) -> int:
    """Run ``command`` to its end and return its exit code; add what it prints to ``output_file``.

    When this process ends first, however, so does the command. It is killed rather than asked to stop: a
    back-test that dies of the same Ctrl-C would go down in the session as a loop without a result.

    Args:
        on_line: Called from this thread with each line.
        lock: Descriptor of the run's lock, held until the command is gone as well.

    Raises:
        SotaError: ``cannot-write`` when there is no place for the output.
    """
    try:
        out = output_file.open("ab")
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot write {output_file}: {error.strerror}.",
            "Check the folder's permissions.",
        ) from error
    with out:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *command],
            cwd=cwd,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                out.flush()
                on_line(line.decode("utf-8", errors="replace"))
            return process.wait()
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # All of it has ended already.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()

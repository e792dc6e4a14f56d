"""Run a command; when the process that asked for it is gone, end it with all it started.

Started by path as the first process of a session of its own, with a pipe as standard input that is never written
to: it closes when the asker ends, by ``kill -9`` as well. Without that, an ``rdagent`` left behind would write
to the log that a resumed run goes on with. Imports nothing of the package, to start at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def main(command: Sequence[str]) -> int:
    """Run ``command`` and return its exit code as a shell would."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    code = child.wait()
    # What the command left behind keeps the output open, and the asker reads that to its end.
    signal.signal(signal.SIGTERM, lambda *_: None)
    for process in _session():
        _send(process, signal.SIGTERM)
    os.killpg(0, signal.SIGTERM)
    return code if code >= 0 else 128 - code


def _end_with_the_asker() -> None:
    while os.read(0, 1):
        pass
    # Until there is no more: what is being started while the others are ended belongs to the session as well.
    while others := _session():
        for process in others:
            _send(process, signal.SIGKILL)
        time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


def _session() -> list[int]:
    """The other processes of this session: all that the command started, also in process groups of their own.

    RD-Agent runs back-tests under ``timeout``, which makes one. Without ``/proc``, none is known.
    """
    own, found = os.getsid(0), []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name in parentheses may hold anything; state, parent, group and session come after it.
            state, _, _, session = entry.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(session) == own and state not in "ZX" and int(entry.parent.name) != os.getpid():
                found.append(int(entry.parent.name))
    return found


def _send(process: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

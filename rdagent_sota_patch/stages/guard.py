"""Run a command; when whoever asked for it is gone, end it with all it started.

Started by path as the first process of a session of its own, with a pipe as standard input that nobody writes
to: it closes when the asker ends, by ``kill -9`` as well. Without that, an ``rdagent`` left behind would write
to the log that a resumed run goes on with. Imports nothing of the package, to start at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def main(command: Sequence[str]) -> int:
    """Run ``command`` and return its exit code as a shell would."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    code = child.wait()
    # What the command left behind keeps the output open, and the asker reads that to its end.
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.killpg(0, signal.SIGTERM)
    return code if code >= 0 else 128 - code


def _end_with_the_asker() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Fresh processes to measure in: a private HOME, no settings of the user's, no network."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.sessions.generated_log import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

PROJECT = Path(__file__).resolve().parents[2]
_KEPT = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process took, in seconds: on the clock, and of the processor (user and system)."""

    wall: float
    cpu: float


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Variables for a process that works in ``folder`` and knows nothing of the user's configuration."""
    return {
        **{name: os.environ[name] for name in _KEPT if name in os.environ},
        "HOME": str(folder),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONWARNINGS": "ignore",
        **variables,
    }


def run_child(module: str, arguments: Sequence[str | Path], folder: Path, *, key: bool = True) -> Any:
    """Run a module of this package as a program in ``folder``; the JSON in its last line of output.

    Args:
        module: Its name in this package.
        arguments: Its arguments.
        folder: Where it works.
        key: Whether the key that the generated log was signed with is at hand.
    """
    variables = {"PYTHONPATH": str(PROJECT), "RDAGENT_SOTA_DISABLE": "true"}
    if key:
        variables["ARTIFACT_SIGNING_KEY"] = KEY
    # By its file, as a console script is run. With -m, Python's own frozen runpy is on the stack, which RD-Agent's
    # logger looks for among all loaded modules: 10 ms for every line it logs.
    program = Path(__file__).with_name(f"{module}.py")
    command = [sys.executable, str(program), *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def time_process(command: Sequence[str], folder: Path, **variables: str) -> Usage:
    """Run a whole process to its end and tell what it took.

    Raises:
        RuntimeError: It failed, so that its time says nothing.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder, **variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return Usage(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

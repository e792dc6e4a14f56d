"""Tell whether a log is still being written to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, list_snapshots
from rdagent_sota_patch.stages.lock import is_locked
from rdagent_sota_patch.stages.state import STATE_NAME, read_state

if TYPE_CHECKING:
    from collections.abc import Iterator

_BETWEEN_LOOKS = 1.5
"""Seconds. RD-Agent writes something more often than that, save while a back-test runs."""


def require_settled(log: Path, *, pause: float = _BETWEEN_LOOKS) -> None:
    """Make sure that no other process is writing ``log``: looks twice, and asks the lock of its run if it has one.

    A run that writes nothing between the two looks is not noticed, unless ``rdagent-sota run`` started it.

    Raises:
        SotaError: ``log-being-written``.
    """
    for folder in _runs_of(log):
        if is_locked(folder):
            raise _written(log, f"the run in {folder} is still going on")
    before = _newest(log)
    time.sleep(pause)
    if (after := _newest(log)) != before:
        raise _written(log, f"{after[0] if after else log} changed while it was looked at")


def _runs_of(log: Path) -> Iterator[Path]:
    for path in log.absolute().parent.glob(f"*/{STATE_NAME}"):
        try:
            state = read_state(path.parent)
        except SotaError:
            continue  # Another version's, or not a run's: it says nothing about this log.
        if state.factor.log == log.absolute():
            yield path.parent


def _newest(log: Path) -> tuple[Path, int, int] | None:
    snapshots, _ = list_snapshots(log / SESSION_FOLDER)
    if not snapshots:
        return None
    path = snapshots[0].path
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return path, facts.st_mtime_ns, facts.st_size


def _written(log: Path, why: str) -> SotaError:
    return SotaError(
        "log-being-written",
        f"The factor log {log} is still being written: {why}.",
        "Wait until that run is done, or stop it; or name one of its snapshots, which pins that moment.",
    )

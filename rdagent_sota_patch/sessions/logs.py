"""Find the log that ``SOTA_LOG_PATH`` names, or the newest run with accepted factors for ``latest``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rdagent_sota_patch.errors import SotaError, SourceError
from rdagent_sota_patch.sessions.locate import summarize
from rdagent_sota_patch.sessions.signature import find_key
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, list_snapshots, read_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rdagent_sota_patch.sessions.records import Session

LATEST = "latest"
_SHOWN = 5
_LOG_TRACE_PATH = "LOG_TRACE_PATH"


class _Run(NamedTuple):
    log: Path
    written: float
    """Seconds since the epoch at which its newest snapshot was written."""


def log_roots(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders in which this environment's runs keep their logs, most specific first.

    ``LOG_TRACE_PATH`` names one run's log; its neighbours are other runs (``rdagent/log/conf.py``).
    """
    trace = next((value for name, value in environ.items() if name.upper() == _LOG_TRACE_PATH), "")
    roots = [Path(trace).expanduser().parent] if trace else []
    return tuple(dict.fromkeys([*roots, Path("log")]))


def find_log(path: Path | str, roots: Sequence[Path], *, exclude: Iterable[Path] = ()) -> Session:
    """Read the named log, or for ``latest`` that of the newest run with an accepted factor experiment.

    Args:
        path: A log folder, its ``__session__``, one snapshot, or ``latest``.
        roots: Where ``latest`` looks; see `log_roots`.
        exclude: Logs that ``latest`` leaves out, such as that of the run which is asking.

    Returns:
        The session. For ``latest``, its ``skipped`` also tells the newer runs that were passed over
        because they cannot be read.

    Raises:
        SourceError: ``no-accepted-run`` when ``latest`` finds none; else as `read_session`.
        SnapshotError: As `read_session`, for a log that is named. ``snapshot-altered`` also for ``latest``.
    """
    if str(path) != LATEST:
        return read_session(Path(path))
    key = find_key()
    left_out = {_canonical(log) for log in exclude}
    unreadable: list[tuple[Path, str]] = []
    seen: list[str] = []
    runs = [run for run in _runs(roots, unreadable) if _canonical(run.log) not in left_out]
    for run in sorted(runs, key=lambda run: (-run.written, str(run.log))):
        try:
            session = read_session(run.log, key=key)
        except SotaError as error:
            if error.slug == "snapshot-altered":
                # It may be the newest accepted run: an older one in its place is not what was asked for.
                raise
            unreadable.append((run.log, error.problems[0].message))
            seen.append(f"{run.log}: {error.problems[0].message}")
            continue
        if session.sota is not None and session.sota.inherited_from is not None:
            seen.append(f"{run.log}: its factors are inherited from {session.sota.inherited_from['task_id']}")
            continue
        if session.sota is not None:
            from dataclasses import replace

            return replace(session, skipped=(*session.skipped, *unreadable))
        seen.append(f"{run.log}: {summarize(session)}")
    where = " and ".join(str(root.absolute()) for root in roots)
    raise SourceError(
        "no-accepted-run",
        f"No run with accepted factors among {len(runs)} under {where}.{_list(seen)}",
        "Run rdagent fin_factor first, or set SOTA_LOG_PATH to a log elsewhere.",
    )


def _runs(roots: Iterable[Path], unreadable: list[tuple[Path, str]]) -> Iterable[_Run]:
    """Every folder with a ``__session__`` right below the roots, once each."""
    met: set[Path] = set()
    for root in roots:
        try:
            folders = sorted(root.iterdir()) if root.is_dir() else []
        except OSError as error:
            unreadable.append((root, f"cannot be listed: {error.strerror}"))
            continue
        for log in folders:
            place = _canonical(log)
            if place in met or not (log / SESSION_FOLDER).is_dir():
                continue
            met.add(place)
            yield _Run(log, _written(log))


def _written(log: Path) -> float:
    try:
        snapshots, _ = list_snapshots(log / SESSION_FOLDER)
        # Of the newest loops only: a long run's hundreds of files need not all be asked.
        newest = snapshots[:5]
        return max((snapshot.path.stat().st_mtime for snapshot in newest), default=0.0)
    except (OSError, SourceError):
        # `find_log` reads it last, and then says why it cannot.
        return 0.0


def _canonical(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _list(seen: list[str]) -> str:
    if not seen:
        return ""
    rest = len(seen) - _SHOWN
    return " Looked at: " + "; ".join(seen[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")

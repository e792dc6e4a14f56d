"""Find the log that ``SOTA_LOG_PATH`` names, or the newest run with accepted factors for ``latest``."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rdagent_sota_patch.errors import SotaError, SourceError
from rdagent_sota_patch.sessions.locate import summarize
from rdagent_sota_patch.sessions.signature import find_key
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, is_index, read_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rdagent_sota_patch.sessions.records import Session

LATEST = "latest"
_SHOWN = 5
_LOG_TRACE_PATH = "LOG_TRACE_PATH"


_NEWEST_LOOPS = 3
"""RD-Agent writes to several loops at a time, to each step's file once: older files are not asked for one by one."""


class Run(NamedTuple):
    """A folder with a ``__session__``."""

    log: Path
    written: float
    """See `last_written`."""


def log_roots(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders in which this environment's runs keep their logs, most specific first.

    ``LOG_TRACE_PATH`` names one run's log; its neighbours are other runs (``rdagent/log/conf.py``).
    """
    trace = next((value for name, value in environ.items() if name.upper() == _LOG_TRACE_PATH), "")
    roots = [Path(trace).expanduser().parent] if trace else []
    return tuple(dict.fromkeys([*roots, Path("log")]))


def log_root(environ: Mapping[str, str]) -> Path:
    """The folder whose runs are meant where none is named: the first of `log_roots` that is there, else ``log``."""
    roots = log_roots(environ)
    return next((root for root in roots if root.is_dir()), roots[-1])


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
        return _read_named(Path(path))
    key = find_key()
    left_out = {_canonical(log) for log in exclude}
    unreadable: list[tuple[Path, str]] = []
    seen: list[str] = []
    runs = [run for run in _runs(roots, unreadable) if _canonical(run.log) not in left_out]
    for run in runs:
        try:
            session = read_session(run.log, key=key)
        except SotaError as error:
            if error.slug == "snapshot-altered":
                # It may be the newest accepted run: an older one in its place is not what was asked for.
                raise
            unreadable.append((run.log, error.problems[0].message))
            seen.append(f"{run.log}: {error.problems[0].message}")
            continue
        if session.sota is not None and session.sota.accepted_here:
            return replace(session, skipped=(*session.skipped, *unreadable))
        if session.sota is not None and session.sota.inherited_from is not None:
            seen.append(f"{run.log}: its factors are inherited from {session.sota.inherited_from['task_id']}")
            continue
        seen.append(f"{run.log}: {summarize(session)}")
    where = " and ".join(str(root.absolute()) for root in roots)
    raise SourceError(
        "no-accepted-run",
        f"No run with accepted factors among {len(runs)} under {where}.{_list(seen)}",
        "Run rdagent fin_factor first, or set SOTA_LOG_PATH to a log elsewhere.",
    )


def _read_named(path: Path) -> Session:
    try:
        return read_session(path)
    except SourceError as error:
        problem = error.problems[0]
        count = _count_runs(path) if problem.slug == "session-not-found" else 0
        if not count:
            raise
        raise SourceError(
            problem.slug,
            f"{problem.message}. The folder holds {count} {'run' if count == 1 else 'runs'}",
            f"Name one of them; rdagent-sota runs {shlex.quote(str(path))} shows them as a table.",
        ) from None


def _count_runs(folder: Path) -> int:
    try:
        with os.scandir(folder) as entries:
            return sum(map(is_log, entries))
    except OSError:
        return 0


def list_runs(root: Path) -> tuple[Run, ...]:
    """The runs right below a folder, the one that was written last first; one that cannot be looked at among them.

    Raises:
        OSError: The folder cannot be listed.
    """
    with os.scandir(root) as entries:
        logs = [Path(entry.path) for entry in entries if is_log(entry)]
    return newest_first(Run(log, last_written(log)) for log in logs)


def newest_first(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The order in which `latest` looks at runs; by name where two were written at the same time."""
    return tuple(sorted(runs, key=lambda run: (-run.written, run.log.name, str(run.log))))


def is_log(folder: os.DirEntry[str]) -> bool:
    """Whether a folder holds a ``__session__``, or cannot be looked into: reading it will say what is wrong."""
    try:
        if not folder.is_dir():
            return False
    except OSError:
        # Such as a link that leads to itself.
        return False
    try:
        return stat.S_ISDIR((Path(folder.path) / SESSION_FOLDER).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def last_written(log: Path) -> float:
    """When the newest snapshot was written, in seconds since the epoch; 0 where there is none that can be looked at."""
    return max(map(_time_of, newest_snapshots(loop_folders(log))), default=0) / 1e9


def loop_folders(log: Path) -> list[str]:
    """Newest first. As text: paths as objects take several times as long."""
    session = f"{log}/{SESSION_FOLDER}"
    names = filter(is_index, _names(session))
    # By length first: as numbers, without reading them as such.
    return [f"{session}/{name}" for name in sorted(names, key=lambda name: (len(name), name), reverse=True)]


def newest_snapshots(loops: list[str]) -> list[str]:
    """The files of the newest of `loop_folders`."""
    return [f"{folder}/{name}" for folder in loops[:_NEWEST_LOOPS] for name in sorted(_names(folder))]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except OSError:
        # Gone meanwhile, or not to be entered: reading the log will say what is wrong.
        return []


def _time_of(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - see loop_folders
    except (OSError, ValueError):
        return 0


def _runs(roots: Iterable[Path], unreadable: list[tuple[Path, str]]) -> tuple[Run, ...]:
    """The runs below all roots, newest first, once each."""
    met: dict[Path, Run] = {}
    for root in roots:
        try:
            for run in list_runs(root):
                met.setdefault(_canonical(run.log), run)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            unreadable.append((root, f"cannot be listed: {error.strerror}"))
    return newest_first(met.values())


def _canonical(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _list(seen: list[str]) -> str:
    if not seen:
        return ""
    rest = len(seen) - _SHOWN
    return " Looked at: " + "; ".join(seen[:_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")

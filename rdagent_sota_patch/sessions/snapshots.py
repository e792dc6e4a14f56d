"""Find the snapshot with the longest history in a run's log, reading as few files as that takes."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rdagent_sota_patch.errors import SnapshotError, SourceError
from rdagent_sota_patch.sessions.budget import budget_of_session
from rdagent_sota_patch.sessions.inert import (
    LARGEST_OF_STRANGERS,
    LARGEST_SNAPSHOT,
    Inert,
    read_inert,
    too_large,
)
from rdagent_sota_patch.sessions.records import ExperimentRecord, Session, Signature
from rdagent_sota_patch.sessions.signature import find_key, open_envelope
from rdagent_sota_patch.sessions.trace import last_moment, loop_class, read_experiments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

SESSION_FOLDER = "__session__"
_SHOWN = 5
_NOT_LOADED = "Failed to load session file"
_PICK_A_LOG = "Name a run's log folder, its __session__ folder, or one snapshot file in it."


class Snapshot(NamedTuple):
    """A file that RD-Agent's ``LoopBase.dump`` wrote: ``__session__/<loop>/<step>_<name>``."""

    loop: int
    step: int
    place: str
    """As text: of some hundred files in a log, one is read."""

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.place)


class _Candidate(NamedTuple):
    path: Path
    signature: Signature
    loop_class: str
    experiments: tuple[ExperimentRecord, ...]
    ended: datetime | None


def read_session(path: Path, *, key: bytes | None = None) -> Session:
    """Read a run's history from its most complete snapshot.

    A history of length h was written by h final steps, so the number of loops with a final step
    bounds every history, inherited experiments aside. Reading goes from the newest snapshot down and
    stops at that bound: at the first file in an ordinary log, later where a run was restarted or a
    file is damaged.

    Args:
        path: A log folder, its ``__session__``, or one snapshot, which is then the one read.
        key: The signing key; looked up as RD-Agent does when not given.

    Raises:
        SourceError: ``log-not-found``, ``session-not-found``, ``not-a-log``, ``log-unreadable``,
            ``no-snapshots`` or ``no-readable-snapshot``.
        SnapshotError: ``snapshot-altered``: a signature does not match the key at hand. Also any
            other when ``path`` names that one snapshot.
    """
    if not _exists(path):
        raise SourceError("log-not-found", f"Log path does not exist: {path}", _PICK_A_LOG)
    key = find_key() if key is None else key
    if path.is_file():
        return _read_one(path, key)
    folder = _session_folder(path)
    snapshots, foreign = list_snapshots(folder)
    if not snapshots:
        raise SourceError(
            "no-snapshots",
            f"{_what_is_missing(folder)}: the run stopped before its first step was done"
            + (f", and {len(foreign)} other files there are none." if foreign else "."),
            "Name the log of a run that completed a loop.",
        )
    best, skipped = _longest(snapshots, key)
    if best is None:
        raise SourceError(
            "no-readable-snapshot",
            f"None of the {len(skipped)} snapshots in {folder} can be read: {_list(skipped)}",
            "Restore the log from a copy, or name another run's.",
        )
    return _session(folder.parent, best, (*skipped, *foreign))


def list_snapshots(folder: Path) -> tuple[list[Snapshot], list[tuple[Path, str]]]:
    """The snapshots in a ``__session__`` folder, newest first, and what else lies there.

    Raises:
        SourceError: ``log-unreadable`` when a folder may not be listed.
    """
    snapshots: list[Snapshot] = []
    foreign: list[tuple[Path, str]] = []
    for loop in _entries(folder):
        if not is_index(loop.name) or not _is(loop.is_dir):
            foreign.append((Path(loop.path), "not a loop's folder"))
            continue
        for file in _entries(loop.path):
            step, _, name = file.name.partition("_")
            if name and "." not in name and is_index(step) and _is(file.is_file):
                snapshots.append(Snapshot(int(loop.name), int(step), file.path))
            else:
                foreign.append((Path(file.path), "not named like a snapshot"))
    snapshots.sort(key=lambda snapshot: (-snapshot.loop, -snapshot.step, snapshot.place))
    return snapshots, sorted(foreign)


def _longest(
    snapshots: list[Snapshot], key: bytes | None
) -> tuple[_Candidate | None, list[tuple[Path, str]]]:
    final_step = max(snapshot.step for snapshot in snapshots)
    bound = len({snapshot.loop for snapshot in snapshots if snapshot.step == final_step})
    best: _Candidate | None = None
    skipped: list[tuple[Path, str]] = []
    for snapshot in snapshots:
        try:
            candidate = _open(snapshot.path, key)
        except SnapshotError as error:
            if error.slug == "snapshot-altered":
                raise _at(snapshot.path, error) from None
            skipped.append((snapshot.path, error.problems[0].message))
            bound -= snapshot.step == final_step
        else:
            if best is None or len(candidate.experiments) > len(best.experiments):
                best = candidate
        if best is not None and sum(record.inherited_from is None for record in best.experiments) >= bound:
            break
    return best, skipped


def _read_one(path: Path, key: bytes | None) -> Session:
    folder = path.parent.parent
    in_a_log = folder.name == SESSION_FOLDER
    try:
        snapshot = _open(path, key)
    except SnapshotError as error:
        named = _at(path, error)
        if in_a_log or error.slug == "snapshot-altered":
            raise named from None
        raise SourceError(
            "not-a-log",
            f"This file is neither a log folder nor a snapshot: {named.problems[0].message}",
            _PICK_A_LOG,
        ) from None
    return _session(folder.parent if in_a_log else path.parent, snapshot, ())


def _open(path: Path, key: bytes | None) -> _Candidate:
    try:
        size = path.stat().st_size
        if size > LARGEST_SNAPSHOT:
            raise too_large(size)
        signature, payload = open_envelope(path.read_bytes(), key)
        own = signature is Signature.VERIFIED
        if size > LARGEST_OF_STRANGERS and not own:
            raise too_large(size, LARGEST_OF_STRANGERS)
        with _collector_paused():
            loop = read_inert(payload, trusted=own)
            experiments = read_experiments(loop, budget_of_session(own))
            candidate = _Candidate(path, signature, loop_class(loop), experiments, last_moment(loop))
            # The loop's tracker refers back to it: cut, so that all of it is freed here and now, and not
            # walked by the collector first.
            if isinstance(loop, Inert):
                loop.state = None
            del loop
            return candidate
    except SnapshotError as error:
        problem = error.problems[0]
        raise SnapshotError(problem.slug, f"{_NOT_LOADED}: {problem.message}", problem.hint) from None
    except RecursionError:
        raise SnapshotError(
            "snapshot-foreign", f"{_NOT_LOADED}: its experiments are based on each other without end."
        ) from None
    except MemoryError:
        raise SnapshotError("snapshot-too-large", f"{path}: there is no memory to read it.") from None
    except OSError as error:
        raise SnapshotError(
            "snapshot-unreadable", f"{_NOT_LOADED}: it cannot be read ({error.strerror})."
        ) from None


def _at(path: Path, error: SnapshotError) -> SnapshotError:
    problem = error.problems[0]
    return SnapshotError(problem.slug, f"{path}: {problem.message}", problem.hint)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Some ten thousand new objects, none of them garbage: scanning them over and over costs a third."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _session(log: Path, chosen: _Candidate, skipped: tuple[tuple[Path, str], ...]) -> Session:
    return Session(
        log, chosen.path, chosen.signature, chosen.loop_class, chosen.experiments, skipped, chosen.ended
    )


def _session_folder(path: Path) -> Path:
    folder = path if path.name == SESSION_FOLDER else path / SESSION_FOLDER
    if not _exists(folder):
        raise SourceError("session-not-found", f"Session directory not found: {folder}", _PICK_A_LOG)
    if not folder.is_dir():
        raise SourceError("not-a-log", f"{folder} is a file where a folder belongs.", _PICK_A_LOG)
    return folder


def _what_is_missing(folder: Path) -> str:
    loops = [int(entry.name) for entry in _entries(folder) if is_index(entry.name) and _is(entry.is_dir)]
    if not loops:
        return f"No loop directories found in session: {folder}"
    return f"No session files found in loop directory: {folder / str(max(loops))}"


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    # A long run has hundreds of files, and scandir tells files from folders without asking for each.
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(Path(folder), error) from None


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        # Such as a link that leads to itself.
        return False


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return True


def _unreadable(path: Path, error: Exception) -> SourceError:
    why = getattr(error, "strerror", None) or error
    return SourceError(
        "log-unreadable", f"{path} cannot be read: {why}", "Check its permissions and its name."
    )


def is_index(text: str) -> bool:
    """Whether a name is that of a loop or step: its number."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _list(skipped: list[tuple[Path, str]]) -> str:
    shown = "; ".join(f"{path}: {reason}" for path, reason in skipped[:_SHOWN])
    rest = len(skipped) - _SHOWN
    return f"{shown}; and {rest} more" if rest > 0 else shown

"""Whether a sealed run has seen a sealed day all the same: its log and its workspaces, read and not run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import survey_tables
from rdagent_sota_patch.sealing.seal_record import ROW, SEAL_NAME, SealRecord, read_seal
from rdagent_sota_patch.sessions.frames import thaw_array
from rdagent_sota_patch.sessions.inert import LARGEST_OF_STRANGERS, Inert, read_inert
from rdagent_sota_patch.sessions.signature import open_envelope
from rdagent_sota_patch.sessions.thaw import FROM_BUFFER, RECONSTRUCT, Unthawable, thaw_dtype, thaw_path
from rdagent_sota_patch.sessions.workspaces import is_folder, workspace_candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.sessions.records import Session

_TABLES = (".parquet", ".h5", ".hdf5", ".csv")
_TEXTS = (".txt", ".md", ".log", ".json")
_PICKLES = (".pkl",)
_TIMESTAMP = ("pandas._libs.tslibs.timestamps", "_unpickle_timestamp")
_SECONDS, _NANOSECONDS = 7, 10
_UNITS = range(_SECONDS, _NANOSECONDS + 1)
"""numpy's numbers of seconds, milli-, micro- and nanoseconds (``NPY_DATETIMEUNIT``)."""
_MOST_DAYS = 100_000
"""From 1970; nanoseconds count no further than some more."""
_LARGEST_TEXT = 1 << 26
_MOST_FILES = 100_000


def find_seen_days(session: Session, roots: Sequence[Path]) -> tuple[Problem, ...]:
    """Each file of a sealed run that shows a sealed day, and each that could not be judged; none for an unsealed run.

    Read are the run's log and the workspaces that its session names: tables in the jail, pickles without unpickling,
    and rows of tables in texts, the prompts among them. Dates in code and settings are not days that were seen.

    Args:
        session: The run.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.

    Raises:
        SotaError: ``seal-record-unreadable``.
    """
    record = read_seal(session.log)
    if record is None:
        return ()
    found = _Findings(record, session.log)
    workspaces: dict[str, PurePath] = {}
    for file in _files(session.log, found):
        # Of the snapshots, the one that was read: it holds what the others do.
        if "__session__" not in file.relative_to(session.log).parts:
            found.judge(file)
    workspaces.update(found.judge_pickle(session.snapshot))
    own = {experiment.workspace for experiment in session.experiments}
    for recorded in workspaces.values():
        place = next(
            (each for each in workspace_candidates(recorded, session.log, roots) if is_folder(each)), None
        )
        if place is None:
            # Others were never made, or are the plugin's own, which it clears.
            if recorded in own:
                found.not_judged(Path(recorded), "this workspace is gone")
        else:
            for file in _files(place, found):
                found.judge(file)
    found.judge_tables()
    return tuple(found.problems)


class _Findings:
    """What is found on the way; each file is judged once, by whatever links it is reached."""

    def __init__(self, record: SealRecord, log: Path) -> None:
        self.problems: list[Problem] = []
        self._first = np.datetime64(record.sealed_from, "ns")
        self._day = record.sealed_from
        self._examples = frozenset(record.example_rows)
        self._log = log
        self._tables: dict[Path, None] = {}
        self._seen: set[Path] = set()

    def judge(self, file: Path) -> None:
        place = file.resolve()
        if place in self._seen:
            return
        self._seen.add(place)
        suffix = file.suffix.lower()
        if suffix in _TABLES:
            self._tables[file] = None
        elif suffix in _PICKLES:
            self.judge_pickle(file)
        elif suffix in _TEXTS:
            self._judge_text(file)

    def judge_pickle(self, file: Path) -> dict[str, PurePath]:
        """Judge what it holds; returns the workspaces that it names."""
        try:
            if file.stat().st_size > LARGEST_OF_STRANGERS:
                self.not_judged(file, "it is too large to be read")
                return {}
            _, payload = open_envelope(file.read_bytes(), None)
            held = read_inert(payload)
        except SotaError as error:
            self.not_judged(file, error.problems[0].message.rstrip("."))
            return {}
        except OSError as error:
            self.not_judged(file, str(error.strerror or error))
            return {}
        days, workspaces, unread = _look_into(held, self._examples)
        self._tell(file, days)
        if unread:
            self.not_judged(file, f"it holds {unread[0]}")
        return workspaces

    def judge_tables(self) -> None:
        """Judge all tables that were met, in one visit to the jail."""
        files = {f"{number}{file.suffix.lower()}": file for number, file in enumerate(self._tables)}
        if not files:
            return
        with Jail(trusted=True) as jail:
            try:
                surveyed = survey_tables(files, jail=jail)
            except SotaError as error:
                for file in files.values():
                    self.not_judged(file, error.problems[0].message.rstrip("."))
                return
        for name, table in surveyed.items():
            if table.fault:
                self.not_judged(files[name], table.fault)
            elif table.days is not None and len(table.days):
                self._tell(files[name], [np.datetime64(table.days[-1], "ns")])

    def _judge_text(self, file: Path) -> None:
        try:
            with file.open("rb") as opened:
                content = opened.read(_LARGEST_TEXT + 1)
        except OSError as error:
            self.not_judged(file, str(error.strerror or error))
            return
        if len(content) > _LARGEST_TEXT:
            self.not_judged(file, "it is too large to be read")
            return
        self._tell(file, _days_in_text(content.decode("utf-8", "replace"), self._examples))

    def _tell(self, file: Path, days: Iterable[np.datetime64]) -> None:
        late = [day for day in days if not np.isnat(day) and day >= self._first]
        if late:
            self.problems.append(
                Problem(
                    "sealed-day-seen",
                    f"{file} shows {pd.Timestamp(max(late)):%Y-%m-%d}; the run was sealed from {self._day} on "
                    f"({self._log / SEAL_NAME}).",
                    "The sealed days are no proof for this run any more. Find out where the file has them from.",
                )
            )

    def not_judged(self, file: Path, why: str) -> None:
        self.problems.append(
            Problem("seal-not-judged", f"Whether {file} shows a sealed day cannot be told: {why}.")
        )


def _files(folder: Path, found: _Findings) -> Iterator[Path]:
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number >= _MOST_FILES:
            found.not_judged(folder, f"it has more than {_MOST_FILES:,} files")
            return
        if path.is_file():
            yield path


def _days_in_text(text: str, examples: frozenset[str]) -> list[np.datetime64]:
    days: list[np.datetime64] = []
    for match in ROW.finditer(text):
        if match[0].strip() in examples:
            continue
        try:
            days.append(np.datetime64(date.fromisoformat(match[1]), "ns"))
        except ValueError:
            continue
    return days


def _look_into(
    held: Any, examples: frozenset[str]
) -> tuple[list[np.datetime64], dict[str, PurePath], list[str]]:
    """The last day of each array of times in a pickle, of each index, and of each printed table.

    Returns:
        The days, the workspaces that are named, and what is an array of times that cannot be read.
    """
    unread: list[str] = []
    days: list[np.datetime64] = []
    workspaces: dict[str, PurePath] = {}
    seen: set[int] = set()
    waiting = [held]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            days += _days_in_text(value, examples)
            continue
        if not isinstance(value, (Inert, Mapping, list, tuple, set, frozenset)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Inert):
            if value.origin in RECONSTRUCT or value.origin in FROM_BUFFER:
                try:
                    days += _days_of_array(value)
                except Unthawable as error:
                    unread.append(str(error))
            elif value.origin == _TIMESTAMP:
                days += _day_of_timestamp(value)
            place = value.attributes.get("workspace_path")
            if isinstance(place, Inert):
                with suppress(Unthawable):
                    path = thaw_path(place)
                    workspaces[str(path)] = path
            waiting += [value.arguments, value.keywords, value.state, value.items, value.entries]
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        else:
            waiting += list(value)
    return days, workspaces, unread


def _days_of_array(value: Inert) -> list[np.datetime64]:
    try:
        array = thaw_array(value)
    except Unthawable:
        if _is_of_times(value):
            raise
        # Of other things, some of which may be times; they are looked at one by one.
        return []
    if array.dtype.kind != "M" or not array.size:
        return []
    known = array[~np.isnat(array)]
    return [known.max().astype("datetime64[ns]")] if known.size else []


def _is_of_times(array: Inert) -> bool:
    parts = (*array.arguments, *(array.state if isinstance(array.state, tuple) else ()))
    for part in parts:
        with suppress(Unthawable):
            if thaw_dtype(part)[0].startswith("M"):
                return True
    return False


def _day_of_timestamp(value: Inert) -> list[np.datetime64]:
    """A moment at midnight: other times are when something was done."""
    match value.arguments:
        case (int() as moment, _, _, int() as unit) if unit in _UNITS:
            pass
        case (int() as moment, *_):
            unit = _NANOSECONDS
        case _:
            return []
    a_day = 86_400 * 10 ** (3 * (unit - _SECONDS))
    if moment % a_day:
        return []
    days = moment // a_day
    return [np.datetime64(days, "D").astype("datetime64[ns]")] if abs(days) < _MOST_DAYS else []

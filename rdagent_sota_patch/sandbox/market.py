"""Market data as RD-Agent keeps it: ``daily_pv.h5`` and what lies beside it, surveyed and cut inside the jail."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.sandbox.data_folder import DataFolder, look_into
from rdagent_sota_patch.sandbox.inside import MAIN, TWICE, kind_of
from rdagent_sota_patch.sandbox.jail import Attempt, Jail, over_limit
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.outputs import Presence, SurveyedFile, Unreadable, read_frame, read_survey
from rdagent_sota_patch.sandbox.supervision import Ending

if TYPE_CHECKING:
    from typing import TypeAlias

    Window: TypeAlias = tuple[pd.Timestamp | None, pd.Timestamp | None]

DATA_NAME = MAIN
_VALUES, _SURVEY = "market.values", "survey.values"
_INSIDE = Path(__file__).with_name("inside.py")
_MIB = 1024 * 1024
_SHOWN = 3
_FAULTS_SHOWN = 5

_DAILY = 0.5
"""Share of the trading days in its time that a table has which is daily at all; quarterly reports are not."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """Which rows of a table, as `inside.cut` takes it."""

    start: str | None = None
    end: str | None = None
    altered_after: str | None = None
    ends: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MarketTable:
    """A data folder that has been looked at; its parts live as long as the jail.

    Attributes:
        data: The folder, or the ``daily_pv.h5``, as it was named.
        days: The trading days of ``daily_pv.h5``, in order.
        instruments: Its instruments.
        columns: Its columns, ``$close`` and the like.
        rows: Its number of rows.
        tables: Every table of the folder by its name, ``daily_pv.h5`` among them.
        presence: Who was traded when.
    """

    data: Path
    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    tables: Mapping[str, SurveyedFile]
    presence: Presence
    _folder: DataFolder
    _jail: Jail
    _limits: Limits
    _made: dict[tuple[str, _Copy], Path] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def dated(self) -> tuple[str, ...]:
        """The names of the tables that can be cut at a day."""
        return tuple(name for name, table in self.tables.items() if table.days is not None)

    @property
    def names(self) -> frozenset[str]:
        """The names of all files that factor code is given."""
        return frozenset(self._folder.files)

    def frame(self, data: Path | None = None) -> pd.DataFrame:
        """All of ``daily_pv.h5``, or of a cut of it: index datetime and instrument, rows and dtypes as in the file.

        Raises:
            BundleError: ``market-data-unreadable``.
        """
        attempt = self._jail.attempt(
            _program(f"convert_market({MAIN!r}, {_VALUES!r})"),
            inputs={MAIN: data or self._folder.files[MAIN]},
            outputs=[_VALUES],
            limits=self._limits,
        )
        _require_finished(attempt, self.data, self._limits)
        values = attempt.outputs[_VALUES]
        try:
            return read_frame(values)
        except Unreadable as error:
            raise _unreadable(self._folder.files[MAIN], str(error)) from error
        finally:
            values.unlink()

    def cut(self, start: pd.Timestamp | None = None, end: pd.Timestamp | None = None) -> Path:
        """A ``daily_pv.h5`` of the days from ``start`` to ``end``, both included; see `cuts`."""
        return self.cuts([(start, end)])[0]

    def cuts(self, windows: Sequence[Window]) -> tuple[Path, ...]:
        """A ``daily_pv.h5`` for each window of days, made from one reading; see `folders`."""
        self._require_days(windows)
        self._make([MAIN], [_copy(*window) for window in windows])
        return tuple(self._made[MAIN, _copy(*window)] for window in windows)

    def folders(self, windows: Sequence[Window], names: Collection[str] | None = None) -> tuple[Path, ...]:
        """A data folder for each window of days: every dated table cut, everything else as it is.

        Each table has the rows of the original in their order, under the same keys, and names no other day. What was
        cut once is not cut again; each file is read once for all windows.

        Args:
            windows: First and last day, both included; None for no bound.
            names: The dated tables that are wanted; None for all.

        Raises:
            BundleError: ``market-data-too-short`` when a window holds no day; ``market-data-unreadable``.
        """
        self._require_days(windows)
        return self._folders([_copy(*window) for window in windows], names)

    def as_one(self) -> Path:
        """The data folder with no table of it going beyond the last day of ``daily_pv.h5``; itself where none does.

        Raises:
            BundleError: ``market-data-unreadable``.
        """
        end = self.days[-1]
        if all(
            table.days is None or not len(table.days) or table.days[-1] <= end
            for table in self.tables.values()
        ):
            return self.data
        return self.folders([(None, end)])[0]

    def altered_after(self, day: pd.Timestamp, names: Collection[str] | None = None) -> Path:
        """A data folder with other numbers after ``day``, and the same rows, gaps and types throughout."""
        return self._folders([_Copy(altered_after=day.isoformat())], names)[0]

    def ended(
        self, ends: Sequence[Mapping[str, pd.Timestamp]], names: Collection[str] | None = None
    ) -> tuple[Path, ...]:
        """A data folder for each of ``ends``: every stock's rows up to a last day of its own.

        Of a table that calls stocks otherwise, or names none, all rows are kept.
        """
        copies = [_Copy(ends=tuple((name, day.isoformat()) for name, day in each.items())) for each in ends]
        return self._folders(copies, names)

    def find_notices(self) -> tuple[Problem, ...]:
        """What is odd about the files beside ``daily_pv.h5``: left out, empty, undated, lacking days, other stocks.

        One notice for all files of which the same is to be said.
        """
        found = [
            (name, Problem("data-file-left-out", f"is not given to factor code: {why}."))
            for name, why in self._folder.left_out.items()
        ]
        others = [table for name, table in self.tables.items() if name != MAIN]
        found += [(table.name, problem) for table in others for problem in self._compare(table)]
        names: dict[Problem, list[str]] = {}
        for name, problem in found:
            names.setdefault(problem, []).append(name)
        return tuple(
            replace(problem, message=f"{self._subject(which)} {problem.message}")
            for problem, which in names.items()
        )

    def _subject(self, names: Sequence[str]) -> str:
        if len(names) == 1:
            return str(self._folder.path / names[0])
        more = f" and {len(names) - _SHOWN} more files" if len(names) > _SHOWN else ""
        return f"{', '.join(names[:_SHOWN])}{more} in {self._folder.path}: each"

    def _compare(self, table: SurveyedFile) -> Iterable[Problem]:
        if not table.rows:
            yield Problem(
                "data-files-differ", "has no rows.", "Write it again, or take it out of the folder."
            )
        elif table.days is None:
            yield Problem(
                "data-file-undated",
                "has no dates: factor code gets it whole, whatever day it is run for.",
                "If its content depends on the day, give it a column of dates (datetime, trade_date).",
            )
        elif is_daily(table, self.days):
            lacking = self.days[~self.days.isin(table.days)]
            if len(lacking):
                shown = ", ".join(f"{day:%Y-%m-%d}" for day in lacking[:_SHOWN])
                yield Problem(
                    "data-files-differ",
                    f"lacks {len(lacking)} of the {len(self.days)} trading days of {MAIN}: {shown}"
                    f"{' and more' if len(lacking) > _SHOWN else ''}.",
                    "Bring the files of the folder up to the same day.",
                )
        if table.instruments:
            unknown = sorted(set(table.instruments) - set(self.instruments))
            if 2 * len(unknown) > len(table.instruments):
                yield Problem(
                    "data-files-differ",
                    f"names stocks otherwise than {MAIN}: {len(unknown)} of its {len(table.instruments)} are "
                    f"not there, such as {', '.join(unknown[:_SHOWN])}; {MAIN} has "
                    f"{', '.join(self.instruments[:_SHOWN])}.",
                    "Factor code that joins the two finds nothing. Write both with the same names.",
                )

    def _require_days(self, windows: Sequence[Window]) -> None:
        for start, end in windows:
            first = 0 if start is None else self.days.searchsorted(start, "left")
            after = len(self.days) if end is None else self.days.searchsorted(end, "right")
            if first >= after:
                raise BundleError(
                    "market-data-too-short",
                    f"{self.data} has no day from {_day(start, 'its first day')} to {_day(end, 'its last')}; "
                    f"it has {_day(self.days[0])} to {_day(self.days[-1])}.",
                    "Give market data that covers these days.",
                )

    def _folders(self, copies: Sequence[_Copy], names: Collection[str] | None) -> tuple[Path, ...]:
        wanted = [name for name in self.dated if name == MAIN or names is None or name in names]
        self._make(wanted, copies)
        whole = [name for name in self._folder.files if name not in self.dated]
        folders = []
        for copy in copies:
            folder = self._jail.new_folder()
            for name in whole:
                (folder / name).symlink_to(self._folder.files[name].resolve())
            for name in wanted:
                (folder / name).symlink_to(self._made[name, copy])
            folders.append(folder)
        return tuple(folders)

    def _make(self, names: Sequence[str], copies: Sequence[_Copy]) -> None:
        """Cut what is not cut yet; another thread that needs the same waits for it."""
        with self._lock:
            todo = {
                name: missing
                for name in names
                if (missing := [copy for copy in dict.fromkeys(copies) if (name, copy) not in self._made])
            }
            if not todo:
                return
            targets = {
                (name, copy): f"{number}{''.join(Path(name).suffixes)}"
                for number, (name, copy) in enumerate((name, copy) for name in todo for copy in todo[name])
            }
            plan = {
                name: [
                    {
                        "target": targets[name, copy],
                        "start": copy.start,
                        "end": copy.end,
                        "altered_after": copy.altered_after,
                        "ends": copy.ends,
                    }
                    for copy in missing
                ]
                for name, missing in todo.items()
            }
            paths = {name: self._folder.files[name] for name in todo}
            # Ours, however much there is, and not what the user allows a factor.
            room = sum(
                len(todo[name]) * (1 + 2 * path.stat().st_size // _MIB) for name, path in paths.items()
            )
            limits = replace(
                self._limits,
                seconds=self._limits.seconds * len(targets),
                output_mb=max(self._limits.output_mb, 64 + room),
            )
            attempt = self._jail.attempt(
                _program(f"cut({plan!r})"), inputs=paths, outputs=list(targets.values()), limits=limits
            )
            _require_finished(attempt, self.data, limits)
            self._made.update({key: attempt.outputs[target] for key, target in targets.items()})


def read_market(data: Path, *, jail: Jail, limits: Limits | None = None) -> MarketTable:
    """Look at market data: each file's days, instruments and columns.

    Args:
        data: A data folder, or a ``daily_pv.h5``: key ``data``, index datetime and instrument, numbers.
        jail: Where it is read; keeps its cuts, too.
        limits: For each reading and cutting.

    Raises:
        BundleError: ``market-data-unreadable``, for each file that is missing, empty, or no table that can be cut.
    """
    folder = look_into(data)
    bounds = limits or Limits()
    attempt = jail.attempt(
        _program(f"survey({list(folder.tables)!r}, {_SURVEY!r})"),
        inputs={name: folder.files[name] for name in folder.tables},
        outputs=[_SURVEY],
        limits=replace(bounds, seconds=bounds.seconds * len(folder.tables)),
    )
    _require_finished(attempt, data, bounds)
    try:
        surveyed, presence = read_survey(attempt.outputs[_SURVEY], folder.tables)
    except Unreadable as error:
        raise _unreadable(data, str(error)) from error
    finally:
        attempt.outputs[_SURVEY].unlink()
    faults = {name: table.fault for name, table in surveyed.items() if table.fault}
    main = surveyed[MAIN]
    if MAIN not in faults and not main.rows:
        faults[MAIN] = "it has no rows"
    if faults:
        raise BundleError.of(_name_faults(folder, faults))
    assert main.days is not None
    return MarketTable(
        data,
        main.days,
        main.instruments,
        main.columns,
        main.rows,
        surveyed,
        presence,
        _folder=folder,
        _jail=jail,
        _limits=bounds,
    )


def survey_tables(
    files: Mapping[str, Path], *, jail: Jail, limits: Limits | None = None
) -> dict[str, SurveyedFile]:
    """What some tables hold, each for itself; one that cannot be read has a fault.

    Args:
        files: HDF5, parquet and CSV files by a name of that kind.
        jail: Where they are read.
        limits: For each of them.

    Raises:
        BundleError: ``market-data-unreadable``: the reading was ended.
    """
    bounds = limits or Limits()
    attempt = jail.attempt(
        _program(f"survey({list(files)!r}, {_SURVEY!r})"),
        inputs=files,
        outputs=[_SURVEY],
        limits=replace(bounds, seconds=bounds.seconds * len(files)),
    )
    where = next(iter(files.values())).parent
    _require_finished(attempt, where, bounds)
    try:
        return read_survey(attempt.outputs[_SURVEY], list(files))[0]
    except Unreadable as error:
        raise _unreadable(where, str(error)) from error
    finally:
        attempt.outputs[_SURVEY].unlink()


def is_daily(table: SurveyedFile, days: pd.DatetimeIndex) -> bool:
    """Whether a table has most of the trading days between its first and its last."""
    if table.days is None or not len(table.days):
        return False
    within = days[(days >= table.days[0]) & (days <= table.days[-1])]
    return len(within) > 0 and float(within.isin(table.days).mean()) > _DAILY


def _program(call: str) -> str:
    return f"{_INSIDE.read_text(encoding='utf-8')}\n\n{call}\n"


def _copy(start: pd.Timestamp | None, end: pd.Timestamp | None) -> _Copy:
    return _Copy(None if start is None else start.isoformat(), None if end is None else end.isoformat())


def _require_finished(attempt: Attempt, data: Path, limits: Limits) -> None:
    ended = attempt.ended
    if ended.ending is Ending.FAILED:
        raise _unreadable(data, ended.last_words())
    if ended.ending is not Ending.FINISHED:
        raise _unreadable(data, f"reading it was ended: {over_limit(ended.ending, limits)}")
    if attempt.unfit:
        raise _unreadable(data, "; ".join(attempt.unfit.values()))


def _name_faults(folder: DataFolder, faults: Mapping[str, str]) -> list[Problem]:
    """What is wrong with each file, of the first few; the others by their number, as long as the screen is not."""
    first = list(faults.items())[:_FAULTS_SHOWN]
    problems = [_unreadable(folder.files[name], fault).problems[0] for name, fault in first]
    more = len(faults) - len(first)
    if more:
        last = problems[-1]
        problems[-1] = replace(
            last, message=f"{last.message} So it is with {more} more files, each in its way."
        )
    return problems


def _unreadable(data: Path, fault: str) -> BundleError:
    if TWICE in fault:
        hint = "Write it again with one row for each stock and day: df[~df.index.duplicated(keep='last')]."
    elif data.name == MAIN or data.suffix == "" or kind_of(data.name) == "other":
        hint = "Give RD-Agent's daily_pv.h5, or its folder: key 'data', index datetime and instrument."
    else:
        hint = "Correct the file, or take it out of the folder."
    return BundleError("market-data-unreadable", f"The market data {data} cannot be used: {fault}.", hint)


def _day(day: pd.Timestamp | None, otherwise: str = "") -> str:
    return otherwise if day is None else f"{day:%Y-%m-%d}"

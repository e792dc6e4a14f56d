"""Market data as RD-Agent keeps it (``daily_pv.h5``), read and cut inside the jail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from rdagent_sota_patch.confinement.factors import DATA_NAME, inside_program
from rdagent_sota_patch.confinement.frames import Unreadable, read_frame, read_outline
from rdagent_sota_patch.confinement.jail import Attempt, Jail, over_limit
from rdagent_sota_patch.confinement.limits import Limits
from rdagent_sota_patch.confinement.supervision import Ending
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from typing import TypeAlias

    Window: TypeAlias = tuple[pd.Timestamp | None, pd.Timestamp | None]

_Read = TypeVar("_Read")
_TABLE_NAME = "market.values"


@dataclass(frozen=True, slots=True)
class MarketTable:
    """Market data that has been looked at; its parts live as long as the jail.

    Attributes:
        data: The ``daily_pv.h5`` itself.
        days: Its trading days, in order.
        instruments: Its instruments.
        columns: Its columns, ``$close`` and the like.
        rows: Its number of rows.
    """

    data: Path
    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    _jail: Jail
    _limits: Limits

    def frame(self) -> pd.DataFrame:
        """All of it: index datetime and instrument, rows and dtypes as in the file.

        Raises:
            BundleError: ``market-data-unreadable``.
        """
        return _convert(self.data, self._jail, self._limits, values=True, read=read_frame)

    def cut(self, start: pd.Timestamp | None = None, end: pd.Timestamp | None = None) -> Path:
        """A ``daily_pv.h5`` of the days from ``start`` to ``end``, both included; see `cuts`."""
        return self.cuts([(start, end)])[0]

    def cuts(self, windows: Sequence[Window]) -> tuple[Path, ...]:
        """A ``daily_pv.h5`` for each window of days, made from one reading.

        Each has the rows of the original in their order, under the same key, and names no other day.

        Args:
            windows: First and last day, both included; None for no bound.

        Raises:
            BundleError: ``market-data-too-short`` when a window holds no day; ``market-data-unreadable``.
        """
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
        names = [f"{position}.h5" for position in range(len(windows))]
        texts = [
            (name, start and start.isoformat(), end and end.isoformat())
            for name, (start, end) in zip(names, windows, strict=True)
        ]
        attempt = self._jail.attempt(
            inside_program(f"cut_market({DATA_NAME!r}, {texts!r})"),
            inputs={DATA_NAME: self.data},
            outputs=names,
            limits=self._limits,
        )
        _require_finished(attempt, self.data, self._limits)
        return tuple(attempt.outputs[name] for name in names)


def read_market(data: Path, *, jail: Jail, limits: Limits | None = None) -> MarketTable:
    """Look at market data: its days, instruments and columns.

    Args:
        data: A ``daily_pv.h5``: key ``data``, index datetime and instrument, numbers.
        jail: Where it is read; keeps its cuts, too.
        limits: For each reading and cutting.

    Raises:
        BundleError: ``market-data-unreadable``, also when it is missing or empty.
    """
    if not data.is_file():
        raise _unreadable(data, "it is no file" if data.exists() else "it does not exist")
    bounds = limits or Limits()
    outline = _convert(data, jail, bounds, values=False, read=read_outline)
    if not outline.rows:
        raise _unreadable(data, "it has no rows")
    return MarketTable(
        data, outline.days, outline.instruments, outline.columns, outline.rows, _jail=jail, _limits=bounds
    )


def _convert(data: Path, jail: Jail, limits: Limits, *, values: bool, read: Callable[[Path], _Read]) -> _Read:
    attempt = jail.attempt(
        inside_program(f"convert_market({DATA_NAME!r}, {_TABLE_NAME!r}, values={values})"),
        inputs={DATA_NAME: data},
        outputs=[_TABLE_NAME],
        limits=limits,
    )
    _require_finished(attempt, data, limits)
    table = attempt.outputs[_TABLE_NAME]
    try:
        return read(table)
    except Unreadable as error:
        raise _unreadable(data, str(error)) from error
    finally:
        table.unlink()


def _require_finished(attempt: Attempt, data: Path, limits: Limits) -> None:
    ended = attempt.ended
    if ended.ending is Ending.FAILED:
        raise _unreadable(data, ended.last_words())
    if ended.ending is not Ending.FINISHED:
        raise _unreadable(data, f"reading it takes {over_limit(ended.ending, limits)}")
    if attempt.unfit:
        raise _unreadable(data, "; ".join(attempt.unfit.values()))


def _unreadable(data: Path, fault: str) -> BundleError:
    return BundleError(
        "market-data-unreadable",
        f"The market data {data} cannot be used: {fault}.",
        "Give the daily_pv.h5 that RD-Agent's factors read: key 'data', index datetime and instrument.",
    )


def _day(day: pd.Timestamp | None, otherwise: str = "") -> str:
    return otherwise if day is None else f"{day:%Y-%m-%d}"

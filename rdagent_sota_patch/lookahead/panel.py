"""A factor's values as a matrix of days by stocks, and two runs' matrices compared day by day."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


class UnusableValues(ValueError):
    """A result that is not a factor; its text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """Values of one factor in one run.

    Attributes:
        days: Sorted and unique, ``datetime64[ns]``.
        stocks: Sorted and unique names, of type ``str``.
        values: float64, (days, stocks). NaN where the factor has no value or no row: in a factor table the two
            are the same.
    """

    days: NDArray[np.datetime64]
    stocks: NDArray[np.str_]
    values: NDArray[np.float64]

    def on(self, days: NDArray[np.datetime64], stocks: NDArray[np.str_]) -> NDArray[np.float64]:
        """The values of these days and stocks (sorted, unique), NaN where there is none."""
        result = np.full((len(days), len(stocks)), np.nan)
        rows, columns = np.isin(days, self.days), np.isin(stocks, self.stocks)
        own_rows = np.searchsorted(self.days, days[rows])
        own_columns = np.searchsorted(self.stocks, stocks[columns])
        result[np.ix_(rows, columns)] = self.values[np.ix_(own_rows, own_columns)]
        return result

    def day(self, day: np.datetime64) -> Panel:
        """The values of one day alone; empty if it has none."""
        rows = self.days == day
        return Panel(self.days[rows], self.stocks, self.values[rows])

    @property
    def any(self) -> bool:
        """Whether there is a value at all."""
        return not bool(np.isnan(self.values).all())


EMPTY = Panel(np.array([], "datetime64[ns]"), np.array([], "U1"), np.empty((0, 0)))


def panel_of(values: pd.DataFrame) -> Panel:
    """One factor's values as a run left them: one column, index datetime and instrument.

    Raises:
        UnusableValues: A stock has several values on a day.
    """
    if not len(values):
        return EMPTY
    index = values.index
    assert isinstance(index, pd.MultiIndex)
    days, instruments = index.levels
    order = np.argsort(names := instruments.to_numpy().astype(np.str_))
    columns = np.empty_like(order)
    columns[order] = np.arange(len(order))
    cells = np.asarray(index.codes[0], dtype=np.int64) * len(names) + columns[np.asarray(index.codes[1])]
    matrix = np.full(len(days) * len(names), np.nan)
    matrix[cells] = values.iloc[:, 0].to_numpy().astype(np.float64)
    if len(np.unique(cells)) != len(cells):
        raise UnusableValues("it has several values for one stock on one day")
    return Panel(
        days.to_numpy().astype("datetime64[ns]"), names[order], matrix.reshape(len(days), len(names))
    )


NOISE = 1e-4
"""Below this share of a value's and its day's size, a change may be rounding: sums over other shapes, in float32,
differ in their last digits. Such a change proves nothing and is not passed over either: see ``judging.py``."""

NEAR = 5
"""Trading days before a cut within which a value counts as tested by it: without one, a cut shows nothing."""

SHORT = 250
"""Trading days, a year: code may ask for so much history before it gives a value, and fail or give none below."""

REPEATABLE = 1e-9
"""Likewise for two runs on the same data, and for runs that start on different days: running sums that start
elsewhere round otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What one run changed against another, day by day.

    Attributes:
        last_day: The day after which the data was cut off.
        days: Days up to it, ``datetime64[ns]``.
        changed: By day, the number of values that differ in any bit, came or went.
        compared: By day, the number of values that either run has.
        largest: Largest absolute change between two finite values; None where there is none.
        excess: Largest change as a share of the value's and its day's size; infinite where a value came or went.
        short: Whether all that changed is that stocks with a short history have no value left at all, and what follows
            from that for others on their days: code that asks for a number of rows does so.
    """

    last_day: np.datetime64
    days: NDArray[np.datetime64]
    changed: NDArray[np.int64]
    compared: NDArray[np.int64]
    largest: float | None
    excess: float
    short: bool = False

    @property
    def share(self) -> float:
        """Share of the values that changed; 0 where there is none."""
        total = int(self.compared.sum())
        return int(self.changed.sum()) / total if total else 0.0

    @property
    def same(self) -> bool:
        """Whether every value is the same to the last bit."""
        return not self.changed.any()

    @property
    def earliest(self) -> np.datetime64 | None:
        """The first day with a changed value."""
        changed: NDArray[np.datetime64] = self.days[self.changed > 0]
        return changed[0] if len(changed) else None


def compare(full: Panel, cut: Panel, last_day: np.datetime64) -> Comparison:
    """Hold every value up to ``last_day`` against the full run's.

    NaN equals NaN, and a missing row equals NaN: a factor may drop what it has no value for.
    """
    days = np.union1d(full.days[full.days <= last_day], cut.days[cut.days <= last_day])
    stocks = np.union1d(full.stocks, cut.stocks)
    before, after = full.on(days, stocks), cut.on(days, stocks)
    present = ~(np.isnan(before) & np.isnan(after))
    differs = present & (before != after)
    largest, excess = _sizes(before, after, differs)
    return Comparison(
        last_day,
        days,
        differs.sum(axis=1, dtype=np.int64),
        present.sum(axis=1, dtype=np.int64),
        largest,
        excess,
        _for_want_of_rows(before, after, differs),
    )


@dataclass(frozen=True, slots=True, eq=False)
class EndsComparison:
    """What one run changed in which each stock's data ended on a day of its own.

    Attributes:
        tested: On how many stocks' ends there was a value to compare that is the same.
        suspects: Last days of stocks whose past changed: first where fewest stocks did so on the changed day. A factor
            that compares stocks changes honestly when one of them ends; only a cut tells.
    """

    tested: int
    suspects: tuple[np.datetime64, ...]


def compare_ends(
    full: Panel, run: Panel, ends: Mapping[str, np.datetime64], days: NDArray[np.datetime64]
) -> EndsComparison:
    """Hold each stock's values up to its own last day against the full run's.

    Args:
        full: The full run's values.
        run: The other's.
        ends: The last day of each stock's data.
        days: The market's trading days.
    """
    stocks = np.union1d(full.stocks, run.stocks)
    stocks = stocks[np.isin(stocks, np.array(list(ends), dtype=np.str_))]
    if not len(stocks):
        return EndsComparison(0, ())
    before, after = full.on(days, stocks), run.on(days, stocks)
    last = np.searchsorted(days, np.array([ends[name] for name in stocks], dtype="datetime64[ns]"))
    past = np.arange(len(days))[:, None] <= last
    present = past & ~(np.isnan(before) & np.isnan(after))
    differs = present & (before != after) & ~_nearly(before, after)
    near = present & (np.arange(len(days))[:, None] > last - NEAR)
    changed = differs.any(axis=0)
    tested = int((near.any(axis=0) & ~changed).sum())
    if not changed.any():
        return EndsComparison(tested, ())
    busy = np.where(differs, differs.sum(axis=1)[:, None], len(stocks) + 1).min(axis=0)
    order = np.lexsort((last, busy))
    places = list(dict.fromkeys(int(last[at]) for at in order if changed[at]))
    return EndsComparison(tested, tuple(days[place] for place in places))


def _nearly(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.abs(before - after) <= NOISE * (
            np.maximum(np.abs(before), np.abs(after)) + _typical(before)[:, None]
        )


def _for_want_of_rows(
    before: NDArray[np.float64], after: NDArray[np.float64], differs: NDArray[np.bool_]
) -> bool:
    had = ~np.isnan(before)
    gone = had.any(axis=0) & np.isnan(after).all(axis=0) & (had.sum(axis=0) < SHORT)
    if not gone.any():
        return False
    others = differs[:, ~gone]
    came_or_went = np.isnan(before[:, ~gone]) != np.isnan(after[:, ~gone])
    explained = had[:, gone].any(axis=1)
    return not came_or_went.any() and not others[~explained].any()


def _sizes(
    before: NDArray[np.float64], after: NDArray[np.float64], differs: NDArray[np.bool_]
) -> tuple[float | None, float]:
    if not differs.any():
        return None, 0.0
    rows = np.flatnonzero(differs.any(axis=1))
    before, after, differs = before[rows], after[rows], differs[rows]
    numbers = differs & np.isfinite(before) & np.isfinite(after)
    came_or_went = bool((differs & ~numbers).any())
    if not numbers.any():
        return None, np.inf
    changes = np.abs(before - after)[numbers]
    size = (np.maximum(np.abs(before), np.abs(after)) + _typical(before)[:, None])[numbers]
    return float(changes.max()), np.inf if came_or_went else float((changes / size).max())


def _typical(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A day's median size: where a value is a difference that happens to be near 0, rounding is not."""
    sizes = np.abs(np.where(np.isfinite(values), values, np.nan))
    result = np.zeros(len(values))
    known = ~np.isnan(sizes).all(axis=1)
    result[known] = np.nanmedian(sizes[known], axis=1)
    return result

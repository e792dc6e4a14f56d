"""A factor's values as a matrix of days by stocks, so that two runs can be held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import NDArray


class UnusableValues(ValueError):
    """A result that is no factor; its text says why."""


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

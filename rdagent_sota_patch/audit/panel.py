"""A factor's values as a matrix of days by stocks, so that two runs can be held against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS = ("datetime", "instrument", "value")
"""What a run's parquet file has: nanoseconds since 1970 as int64, text, float64."""


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


def read_panel(path: Path) -> Panel:
    """Read what a run in the jail left (`COLUMNS`).

    Raises:
        UnusableValues: The file is not of that form, or names a stock twice on a day.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UnusableValues(f"its values cannot be read: {error}") from error
    if tuple(table.column_names) != COLUMNS or table.schema.types != [pa.int64(), pa.string(), pa.float64()]:
        raise UnusableValues("its values are not of the form that was asked for")
    return _panel(*table.columns)


def _panel(datetimes: Any, instruments: Any, values: Any) -> Panel:
    if datetimes.null_count or instruments.null_count:
        raise UnusableValues("its index has a missing day or stock")
    if not len(datetimes):
        return EMPTY
    days, rows = np.unique(datetimes.to_numpy(), return_inverse=True)
    encoded = pc.dictionary_encode(instruments.combine_chunks())
    names = np.array(encoded.dictionary.to_pylist(), dtype=np.str_)
    stocks, places = np.unique(names, return_inverse=True)
    columns = places[encoded.indices.to_numpy(zero_copy_only=False)]
    cells = rows.astype(np.int64) * len(stocks) + columns
    matrix = np.full(len(days) * len(stocks), np.nan)
    matrix[cells] = values.to_numpy()
    if len(np.unique(cells)) != len(cells):
        raise UnusableValues("it has several values for one stock on one day")
    return Panel(days.astype("datetime64[ns]"), stocks, matrix.reshape(len(days), len(stocks)))

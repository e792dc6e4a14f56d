"""On which days a factor table has rows, and how many of each factor's values are missing there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from rdagent_sota_patch.factors.rows import RowIndex


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """What a table covers.

    Attributes:
        days: Its days, rising, as days since 1970-01-01, shape (days,).
        rows: Number of rows on each, shape (days,).
        missing: By factor, how many of its values are missing on each day, shape (days,); without the factors that
            lack none.
    """

    days: NDArray[np.int64]
    rows: NDArray[np.int64]
    missing: Mapping[str, NDArray[np.int64]]


class CoverageCount:
    """Counts while the columns are read."""

    def __init__(self, index: RowIndex) -> None:
        first = int(index.days.min())
        rows = np.bincount(index.days - first)
        present = rows > 0
        self._days = np.flatnonzero(present) + first
        self._rows = rows[present]
        # Of each row, the place of its day among those that occur.
        self._places = (np.cumsum(present, dtype=np.int32) - 1)[index.days - first]
        self._missing: dict[str, NDArray[np.int64]] = {}

    def missing(self, name: str, position: int, missing: NDArray[np.bool_]) -> None:
        """Count the missing values of one factor's batch that begins at row ``position``."""
        places = self._places[position : position + len(missing)][missing]
        counted = np.bincount(places, minlength=len(self._days))
        self._missing[name] = self._missing[name] + counted if name in self._missing else counted

    def done(self) -> Coverage:
        """What was counted."""
        return Coverage(self._days, self._rows, self._missing)

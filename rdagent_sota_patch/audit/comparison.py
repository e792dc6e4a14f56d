"""The past as a run on cut data sees it, held against the past as the full run sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rdagent_sota_patch.audit.panel import Panel

NOISE = 1e-4
"""Below this share of a value's and its day's size, a change may be rounding: sums over other shapes, in float32,
differ in their last digits. Such a change proves nothing and is not passed over either: see ``judging.py``."""

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
    """

    last_day: np.datetime64
    days: NDArray[np.datetime64]
    changed: NDArray[np.int64]
    compared: NDArray[np.int64]
    largest: float | None
    excess: float

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
    )


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

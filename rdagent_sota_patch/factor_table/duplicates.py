"""RD-Agent's rule for a new factor that is nearly one there is: their correlation by day, on average over the days."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.factor_table.metrics import correlate_days

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cube = NDArray[np.float64]

DUPLICATE_FROM = 0.99
"""A new factor is kept below this (``factor_runner.py``, ``deduplicate_new_factors``); -1 is no duplicate there."""

_DUST = 1e-14
"""What is left of equal values, as a share of them, once their mean is taken off: rounding."""
_DOUBTFUL = 1e-8
"""Where the stocks of a pair differ so little beside all of a factor's, sums of squares are not exact enough."""


class MeanCorrelations:
    """The mean over days of every pair's correlation on each day, from blocks of days.

    As ``deduplicate_new_factors`` computes it (``rdagent/scenarios/qlib/developer/factor_runner.py``): on each day
    Pearson's correlation over the stocks that have both, signed; the mean is over the days on which there is one. A day
    on which either of them is constant has none, and neither has one with fewer than ``fewest`` such stocks, which is
    2 there.
    """

    def __init__(self, factors: int, fewest: int = 2) -> None:
        self._fewest = fewest
        self._sum = np.zeros((factors, factors))
        self._days = np.zeros((factors, factors), np.int64)

    def add(self, values: Cube) -> None:
        """Count some days in.

        Args:
            values: Shape (factors, days, stocks); NaN for none.
        """
        found = _correlate(values, self._fewest)
        self._sum += np.nansum(found, axis=0)
        self._days += np.isfinite(found).sum(axis=0)

    def means(self) -> NDArray[np.float64]:
        """Shape (factors, factors); NaN for a pair that has no correlation on any day."""
        with np.errstate(invalid="ignore"):
            return self._sum / self._days


def _correlate(values: Cube, fewest: int) -> Cube:
    """Every pair's correlation on each day, shape (days, factors, factors)."""
    centred, known = _center(values.transpose(1, 0, 2))
    across = known.transpose(0, 2, 1)
    count = known @ across
    # Of the first of a pair, over the stocks that both have; its transpose is that of the second.
    total, squares = centred @ across, (centred**2) @ across
    products = centred @ centred.transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = squares - total**2 / count
        other = spread.transpose(0, 2, 1)
        found = (products - total * total.transpose(0, 2, 1) / count) / np.sqrt(spread * other)
    found[~((count >= fewest) & (spread > 0) & (other > 0))] = np.nan
    doubtful = (count >= fewest) & (spread < _DOUBTFUL * squares)
    doubtful |= doubtful.transpose(0, 2, 1)
    for left, right in np.argwhere(doubtful.any(axis=0)):
        days = doubtful[:, left, right]
        found[days, left, right] = correlate_days(values[left, days], values[right, days], fewest)
    clipped: Cube = found.clip(-1, 1)
    return clipped


def _center(values: Cube) -> tuple[Cube, Cube]:
    """Each factor's values of a day less their mean and scaled to 1, 0 for none; and which count, as 0 and 1.

    Scaled before and after, so that no square is too large or too small for a float. Those of a constant do not count.
    """
    known = ~np.isnan(values)
    centred = np.where(known, values, 0.0)
    centred /= _largest(centred)
    centred -= centred.sum(axis=2, keepdims=True) / np.maximum(known.sum(axis=2, keepdims=True), 1)
    centred[~known] = 0.0
    largest = _largest(centred)
    constant = (largest <= _DUST)[:, :, 0]
    centred /= largest
    centred[constant] = 0.0
    known[constant] = False
    return centred, known.astype(np.float64)


def _largest(values: Cube) -> Cube:
    largest: Cube = np.abs(values).max(axis=2, keepdims=True, initial=0.0)
    largest[largest == 0] = np.finfo(np.float64).tiny
    return largest

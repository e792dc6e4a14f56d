"""What chance alone could have made of the days: tests of the best trial, and bands, by block bootstrap (`arch`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Matrix = NDArray[np.float64]

SEED = 20150301
"""Of every resampling here: the same log gives the same figures."""
REPETITIONS = 1000
_BAND = (5.0, 95.0)


@dataclass(frozen=True, slots=True)
class BestAgainstZero:
    """Whether the best of many beats doing nothing by more than the best of as many without skill would.

    Attributes:
        spa_p: Hansen's (2005) test for superior predictive ability, his consistent p value.
        reality_check_p: White's (2000) reality check.
        block: Mean length of the stationary bootstrap's blocks, in days.
    """

    spa_p: float
    reality_check_p: float
    block: int


def compare_best(returns: Matrix) -> BestAgainstZero:
    """Both tests of mean excess returns against 0.

    Args:
        returns: Days by trials, none of them constant.
    """
    from arch.bootstrap import SPA

    days = len(returns)
    block = max(1, round(days ** (1 / 3)))
    options = {"reps": REPETITIONS, "block_size": block, "bootstrap": "stationary", "seed": SEED}
    # Losses: what is smaller is better.
    superior = SPA(np.zeros(days), -returns, studentize=True, **options)
    superior.compute()
    check = SPA(np.zeros(days), -returns, studentize=False, **options)
    check.compute()
    return BestAgainstZero(float(superior.pvalues["consistent"]), float(check.pvalues["upper"]), block)


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """What the same days in another order, in blocks, would have come to.

    Attributes:
        low, high: 5 % and 95 % of the summed returns up to each day.
        drawdowns: The largest fall of each resampled path below its earlier high, as positive numbers, rising.
        drawdown: That of the days as they were.
        block: Mean length of the blocks, in days (Politis and White 2004, as corrected 2009).
    """

    low: Vector
    high: Vector
    drawdowns: Vector
    drawdown: float
    block: int


def resample_paths(returns: Vector) -> Paths:
    """Equity and drawdown of stationary block bootstraps of daily returns; returns are summed, not compounded."""
    from arch.bootstrap import StationaryBootstrap, optimal_block_length

    block = max(1, round(float(optimal_block_length(returns)["stationary"].iloc[0])))
    bootstrap = StationaryBootstrap(block, returns, seed=SEED)
    paths = np.array([data[0].cumsum() for data, _ in bootstrap.bootstrap(REPETITIONS)])
    low, high = np.percentile(paths, _BAND, axis=0)
    falls = np.sort([largest_fall(path) for path in paths])
    return Paths(low, high, falls, largest_fall(returns.cumsum()), block)


def largest_fall(path: Vector) -> float:
    """The most that a path of summed returns falls below an earlier high, or below its start."""
    return float((np.maximum.accumulate(np.concatenate(([0.0], path)))[1:] - path).max())

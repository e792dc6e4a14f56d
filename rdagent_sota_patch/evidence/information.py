"""The information coefficient over time: its mean and error, how long it lasts, and its months and years."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.evidence.sharpe import mean_error, newey_west_lags

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

_LEAST_DAYS = 10


@dataclass(frozen=True, slots=True)
class DailyIc:
    """A daily IC in figures.

    Attributes:
        days: That have one.
        mean: Over them.
        t: Mean over its standard error, days taken as independent, as one day's label ends before the next one's
            begins; None with fewer than 10 days, or where it does not vary.
        t_newey_west: The same with the Newey-West error.
        half_life: Days in which the autocorrelation of the daily IC falls by half, if it falls like an AR(1)'s:
            ``ln 0.5 / ln φ``; None where φ is not between 0 and 1.
        by_year, by_month: Mean by ``YYYY`` and ``YYYY-MM``.
    """

    days: int
    mean: float
    t: float | None
    t_newey_west: float | None
    half_life: float | None
    by_year: Mapping[str, float]
    by_month: Mapping[str, float]


def describe_ic(daily: pd.Series[float]) -> DailyIc | None:
    """Figures of a daily IC.

    Args:
        daily: By trading day; days without one are NaN.

    Returns:
        None where no day has one.
    """
    known = daily[np.isfinite(daily.to_numpy())]
    if known.empty:
        return None
    values = known.to_numpy(dtype=np.float64)
    varies = len(values) >= _LEAST_DAYS and np.ptp(values) > 0
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if varies else 0.0
    robust = mean_error(values, newey_west_lags(len(values))) if varies else 0.0
    return DailyIc(
        days=len(values),
        mean=float(values.mean()),
        t=float(values.mean()) / error if error > 0 else None,
        t_newey_west=float(values.mean()) / robust if robust > 0 else None,
        half_life=_half_life(values) if varies else None,
        by_year=_means(known, "%Y"),
        by_month=_means(known, "%Y-%m"),
    )


def _half_life(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    before, after = values[:-1] - values[:-1].mean(), values[1:] - values[1:].mean()
    weight = float(before @ before)
    slope = float(before @ after) / weight if weight > 0 else 0.0
    return math.log(0.5) / math.log(slope) if 0 < slope < 1 else None


def _means(daily: pd.Series[float], period: str) -> dict[str, float]:
    import pandas as pd

    assert isinstance(daily.index, pd.DatetimeIndex)
    return {
        str(name): float(mean) for name, mean in daily.groupby(daily.index.strftime(period)).mean().items()
    }

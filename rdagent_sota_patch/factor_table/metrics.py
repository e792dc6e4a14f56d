"""What a single factor is worth, in figures: pure functions on arrays of days by stocks.

A value is known at a day's close. It can be acted on at the next day's close, so the return that it is held against
over a horizon of h trading days is ``close[t + 1 + h] / close[t + 1] - 1``. For h = 1 that is the label of RD-Agent's
templates, ``Ref($close, -2) / Ref($close, -1) - 1``. Days are those of the market data; a stock without a price on
either day has no return. Every figure of a day is over the stocks that have both a value and a return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    """Days by stocks, NaN for none."""

HORIZONS = (1, 5, 10, 20)
"""Trading days."""
QUANTILES = 5
YEAR = 252
"""Trading days, as programs that annualize single-factor figures count them."""
_FEWEST = 6
"""Stocks on a day; a correlation over fewer says nothing."""


@dataclass(frozen=True, slots=True)
class FactorFigures:
    """Figures of one factor; None for one that cannot be computed.

    Returns are over one trading day unless the name says otherwise, as shares (0.01 is one percent).

    Attributes:
        ic_mean, ic_std: Of the daily Pearson correlation of values and returns (IC); ``ddof`` is 1.
        icir: ``ic_mean / ic_std``, daily, not annualized.
        ic_t: Of the hypothesis that the mean is 0: ``icir * sqrt(days)``.
        rank_ic_mean, rank_ic_std, rank_icir, rank_ic_t: The same of Spearman's rank correlation.
        rank_ic_1d, rank_ic_5d, rank_ic_10d, rank_ic_20d: Mean Rank IC against returns over so many days: the decay.
        turnover: Share of the top fifth's stocks that were not in it on the day before, on average.
        autocorrelation: Of the stocks' ranks on two days that follow each other, on average.
        coverage: Share of the stocks with a price that have a value, on average over the table's days.
        quantile_returns: Mean return of each fifth by value, lowest first: of the days' means, equally weighted, over
            the days on which every fifth has a stock.
        quantile_spread: Top fifth less bottom fifth.
        ic_positive_ratio: Share of days with a positive IC.
        top_annual_return, benchmark_annual_return, top_excess_annual_return: Mean return times 252 of the top fifth,
            of all fifths, and of their difference.
        top_sharpe, top_excess_sharpe: Mean over standard deviation (``ddof`` 1) times the root of 252.
        top_max_drawdown: Of the top fifth's returns compounded; negative.
        group_return_monotonicity: Rank correlation of the fifths' numbers and mean returns.
        ic_decay_half_life: Trading days in which the absolute mean Rank IC over the four horizons halves, by a
            straight line through its logarithms; None where it does not fall.
        n_trading_days: Days with an IC.
    """

    ic_mean: float | None = None
    ic_std: float | None = None
    icir: float | None = None
    ic_t: float | None = None
    rank_ic_mean: float | None = None
    rank_ic_std: float | None = None
    rank_icir: float | None = None
    rank_ic_t: float | None = None
    rank_ic_1d: float | None = None
    rank_ic_5d: float | None = None
    rank_ic_10d: float | None = None
    rank_ic_20d: float | None = None
    turnover: float | None = None
    autocorrelation: float | None = None
    coverage: float | None = None
    quantile_returns: tuple[float, ...] | None = None
    quantile_spread: float | None = None
    ic_positive_ratio: float | None = None
    top_annual_return: float | None = None
    benchmark_annual_return: float | None = None
    top_excess_annual_return: float | None = None
    top_sharpe: float | None = None
    top_excess_sharpe: float | None = None
    top_max_drawdown: float | None = None
    group_return_monotonicity: float | None = None
    ic_decay_half_life: float | None = None
    n_trading_days: int = 0


def forward_returns(close: Matrix, horizon: int) -> Matrix:
    """Returns over ``horizon`` trading days, entered at the close of the day after.

    Args:
        close: Adjusted closing prices, shape (days, stocks).
        horizon: In trading days, 1 or more.

    Returns:
        Shape (days, stocks); NaN where a price is missing or not positive, and on the last ``horizon + 1`` days.
    """
    result = np.full(close.shape, np.nan)
    entry, leaving = close[1:-horizon], close[1 + horizon :]
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = leaving / entry - 1
    result[: len(gained)] = np.where((entry > 0) & (leaving > 0), gained, np.nan)
    return result


class OrderedDays:
    """A matrix whose days were sorted once, so that any part of the stocks is ranked without sorting again.

    Attributes:
        values: Shape (days, stocks); NaN for none.
    """

    def __init__(self, values: Matrix) -> None:
        self.values = values
        self._order = np.argsort(values, axis=1)
        ordered = np.take_along_axis(values, self._order, axis=1)
        same = ordered[:, 1:] == ordered[:, :-1]
        self._ties: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        if same.any():
            places = np.arange(values.shape[1])
            edge = np.ones((len(values), 1), bool)
            first = np.where(np.hstack([edge, ~same]), places, 0)
            last = np.where(np.hstack([~same, edge]), places, places[-1])
            self._ties = (
                np.maximum.accumulate(first, axis=1),
                np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1],
            )

    def rank(self, chosen: NDArray[np.bool_]) -> Matrix:
        """Ranks among the chosen cells of each day, from 1; equal values share the mean of theirs.

        Args:
            chosen: Shape (days, stocks); cells that have a value.

        Returns:
            Of that shape; NaN for what was not chosen.
        """
        taken = np.take_along_axis(chosen, self._order, axis=1)
        count = np.cumsum(taken, axis=1)
        ranks = count.astype(np.float64)
        if self._ties is not None:
            first, last = self._ties
            below: NDArray[np.int64] = np.take_along_axis(count - taken, first, axis=1)
            ranks = (below + 1 + np.take_along_axis(count, last, axis=1)) / 2
        result: Matrix = np.empty(chosen.shape)
        np.put_along_axis(result, self._order, np.where(taken, ranks, np.nan), axis=1)
        return result


def describe_factor(
    values: Matrix, returns: Mapping[int, OrderedDays], priced: NDArray[np.bool_]
) -> FactorFigures:
    """All figures of one factor.

    Args:
        values: Of the factor, shape (days, stocks); what is not finite counts as none.
        returns: By horizon, each of that shape; a horizon that is not there gives no figures.
        priced: Which stocks have a price on which days, of that shape.
    """
    factor = OrderedDays(np.where(np.isfinite(values), values, np.nan))
    has_value = ~np.isnan(factor.values)
    figures: dict[str, object] = {"coverage": _coverage(has_value, priced)}
    decay = {}
    for horizon, gained in returns.items():
        both = has_value & ~np.isnan(gained.values)
        ranks = factor.rank(both)
        rank_ic = correlate_days(ranks, gained.rank(both))
        decay[horizon] = _mean(rank_ic)
        if horizon == 1:
            known = np.where(both, factor.values, np.nan)
            ic = correlate_days(known, gained.values)
            figures |= _summarize("ic", "icir", ic) | _summarize("rank_ic", "rank_icir", rank_ic)
            days = ~np.isnan(ic)
            figures["n_trading_days"] = int(days.sum())
            figures["ic_positive_ratio"] = float((ic[days] > 0).mean()) if days.any() else None
            figures["autocorrelation"] = _mean(correlate_days(ranks[1:], ranks[:-1], fewest=2))
            figures |= _describe_quantiles(split_days(known), gained.values)
    figures |= {f"rank_ic_{horizon}d": decay.get(horizon) for horizon in HORIZONS}
    figures["ic_decay_half_life"] = _half_life(decay)
    return FactorFigures(**figures)  # type: ignore[arg-type]


def correlate_days(left: Matrix, right: Matrix, fewest: int = _FEWEST) -> NDArray[np.float64]:
    """Pearson's correlation of two matrices, row by row, over the cells that both have.

    Args:
        left, right: Shape (days, stocks).
        fewest: How many such cells a day needs.

    Returns:
        Shape (days,); NaN for a day with fewer, or on which either is constant.
    """
    both = ~(np.isnan(left) | np.isnan(right))
    count = both.sum(axis=1)

    def center(matrix: Matrix) -> Matrix:
        # Scaled by the day's largest value, so that no square is too large or too small for a float.
        scaled = np.where(both, matrix, 0.0)
        scaled /= np.maximum(np.abs(scaled).max(axis=1, keepdims=True, initial=0.0), _TINY)
        scaled -= scaled.sum(axis=1, keepdims=True) / np.maximum(count, 1)[:, None]
        scaled[~both] = 0.0
        return scaled

    x, y = center(left), center(right)
    power = [np.einsum("ij,ij->i", each, each) for each in (x, y)]
    defined = (count >= fewest) & (np.minimum(*power) > count * _DUST**2)
    result: NDArray[np.float64] = np.full(len(left), np.nan)
    products = np.einsum("ij,ij->i", x, y)
    result[defined] = products[defined] / np.sqrt(power[0][defined] * power[1][defined])
    return result.clip(-1, 1)


def split_days(values: Matrix, parts: int = QUANTILES) -> NDArray[np.int8]:
    """Split each day's stocks by value into parts of equal size, as ``pandas.qcut`` does.

    Args:
        values: Shape (days, stocks); NaN for none.
        parts: How many.

    Returns:
        Shape (days, stocks): 0 for the lowest values up to ``parts - 1``, and -1 for none. A day on which two of the
        edges are one (too few stocks, too many equal values) is not split.
    """
    ordered = np.sort(values, axis=1)
    count = (~np.isnan(values)).sum(axis=1)
    # As NumPy's percentile computes them, to the last bit: an edge is often a value itself.
    places = (np.linspace(0, 1, parts + 1) * 100 / 100) * np.maximum(count - 1, 0)[:, None]
    below = np.floor(places).astype(np.int64)
    share = places - below
    low = np.take_along_axis(ordered, below, axis=1)
    high = np.take_along_axis(ordered, np.minimum(below + 1, np.maximum(count - 1, 0)[:, None]), axis=1)
    step = high - low
    edges = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    part: NDArray[np.int8] = np.zeros(values.shape, np.int8)
    for inner in range(1, parts):
        part += values > edges[:, inner : inner + 1]
    split = (count > 0) & (np.diff(edges, axis=1) > 0).all(axis=1)
    part[np.isnan(values) | ~split[:, None]] = -1
    return part


_DUST = 1e-14
"""What is left of equal values, as a share of them, once their mean is taken off: rounding."""
_TINY = 1e-300


def _mean(days: NDArray[np.float64]) -> float | None:
    kept = days[~np.isnan(days)]
    return float(kept.mean()) if len(kept) else None


def _ratio(numbers: NDArray[np.float64]) -> float | None:
    """Mean over standard deviation."""
    deviation = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    return float(numbers.mean()) / deviation if deviation > 0 else None


def _summarize(name: str, ratio_name: str, days: NDArray[np.float64]) -> dict[str, float | None]:
    kept = days[~np.isnan(days)]
    ratio = _ratio(kept)
    return {
        f"{name}_mean": _mean(kept),
        f"{name}_std": float(kept.std(ddof=1)) if len(kept) > 1 else None,
        ratio_name: ratio,
        f"{name}_t": None if ratio is None else ratio * len(kept) ** 0.5,
    }


def _coverage(has_value: NDArray[np.bool_], priced: NDArray[np.bool_]) -> float | None:
    listed = priced.sum(axis=1)
    having = (priced & has_value).sum(axis=1)
    days = listed > 0
    return float((having[days] / listed[days]).mean()) if days.any() else None


def _describe_quantiles(part: NDArray[np.int8], gained: Matrix) -> dict[str, object]:
    sizes = np.column_stack([(part == number).sum(axis=1) for number in range(QUANTILES)])
    split = np.flatnonzero(sizes.min(axis=1))
    if not len(split):
        return {}
    part, gained = part[split], gained[split]
    daily = np.column_stack(
        [np.where(part == number, gained, 0.0).sum(axis=1) for number in range(QUANTILES)]
    )
    daily /= sizes[split]
    top, market = daily[:, -1], daily.mean(axis=1)
    means = daily.mean(axis=0)
    wealth = np.cumprod(1 + top)
    peak = np.maximum(np.maximum.accumulate(wealth), 1.0)
    sharpe, excess = _ratio(top), _ratio(top - market)
    return {
        "quantile_returns": tuple(map(float, means)),
        "quantile_spread": float(means[-1] - means[0]),
        "turnover": _turnover(part == QUANTILES - 1, split),
        "top_annual_return": float(top.mean() * YEAR),
        "benchmark_annual_return": float(market.mean() * YEAR),
        "top_excess_annual_return": float((top - market).mean() * YEAR),
        "top_sharpe": None if sharpe is None else sharpe * YEAR**0.5,
        "top_excess_sharpe": None if excess is None else excess * YEAR**0.5,
        "top_max_drawdown": float((wealth / peak - 1).min()),
        "group_return_monotonicity": _monotonicity(means),
    }


def _turnover(top: NDArray[np.bool_], days: NDArray[np.int64]) -> float | None:
    """Of the top fifths on those days that follow one another."""
    follows = np.diff(days) == 1
    if not follows.any():
        return None
    new = (top[1:] & ~top[:-1]).sum(axis=1) / top[1:].sum(axis=1)
    return float(new[follows].mean())


def _monotonicity(means: NDArray[np.float64]) -> float | None:
    ranks = pd.Series(means).rank().to_numpy()
    found = correlate_days(np.arange(len(means), dtype=float)[None], ranks[None], fewest=2)
    return _mean(found)


def _half_life(decay: Mapping[int, float | None]) -> float | None:
    points = [(horizon, abs(mean)) for horizon, mean in decay.items() if mean]
    if len(points) < 2:
        return None
    horizons, means = np.array(points).T
    slope = float(np.polyfit(horizons, np.log(means), 1)[0])
    return float(np.log(0.5) / slope) if slope < 0 else None

"""Figures of a single factor: equal to alphalens, SciPy and pandas, on values with gaps, ties and dead days."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.factor_table import metrics
from rdagent_sota_patch.factor_table.metrics import (
    HORIZONS,
    FactorFigures,
    OrderedDays,
    correlate_days,
    describe_factor,
    forward_returns,
    split_days,
)

DAYS, STOCKS = 60, 41


def make_world(seed: int = 7, gaps: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Closing prices, and a factor that knows a little of the next days' returns; both with gaps."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.02, (DAYS, STOCKS))
    close = 10 * np.exp(np.cumsum(steps, axis=0))
    values = 0.1 * np.vstack([steps[2:], np.zeros((2, STOCKS))]) + rng.normal(0, 0.01, (DAYS, STOCKS))
    values[rng.random(values.shape) < gaps] = np.nan
    close[rng.random(close.shape) < gaps / 4] = np.nan
    return close, values


def figures(close: np.ndarray, values: np.ndarray) -> FactorFigures:
    returns = {horizon: OrderedDays(forward_returns(close, horizon)) for horizon in HORIZONS}
    return describe_factor(values, returns, ~np.isnan(close))


def long(matrix: np.ndarray, name: str) -> pd.Series:
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", periods=len(matrix)), [f"S{n:03d}" for n in range(matrix.shape[1])]],
        names=["date", "asset"],
    )
    return pd.Series(matrix.ravel(), index, name=name)


class Alphalens:
    """Its figures of the same values and returns."""

    def __init__(self, close: np.ndarray, values: np.ndarray, horizon: int) -> None:
        # By name, so that what it warns of at its import is not an error here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.performance: Any = pytest.importorskip("alphalens.performance")
            utils: Any = pytest.importorskip("alphalens.utils")
            returns = long(forward_returns(close, horizon), f"{horizon}D").to_frame()
            self.data = utils.get_clean_factor(long(values, "factor").dropna(), returns, max_loss=1.0)

    def ask(self, name: str, *arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(self.performance, name)(*arguments, **options)


@pytest.mark.parametrize("gaps", [0.0, 0.1, 0.4])
def test_equal_to_alphalens(gaps: float) -> None:
    """Rank IC at every horizon, fifths, spread, turnover and autocorrelation, to nine places."""
    close, values = make_world(gaps=gaps)
    found = figures(close, values)
    for horizon in HORIZONS:
        theirs = Alphalens(close, values, horizon)
        rank_ic = theirs.ask("factor_information_coefficient", theirs.data)[f"{horizon}D"]
        assert getattr(found, f"rank_ic_{horizon}d") == pytest.approx(rank_ic.mean(), abs=1e-9)
    theirs = Alphalens(close, values, 1)
    rank_ic = theirs.ask("factor_information_coefficient", theirs.data)["1D"]
    assert found.rank_ic_std == pytest.approx(rank_ic.std(), abs=1e-9)
    by_day, _ = theirs.ask("mean_return_by_quantile", theirs.data, by_date=True, demeaned=False)
    means, _ = theirs.ask("mean_return_by_quantile", theirs.data, demeaned=False)
    assert found.quantile_returns == pytest.approx(means["1D"].to_numpy(), abs=1e-9)
    # It gives the spread of a book that is half long and half short.
    half, _ = theirs.ask("compute_mean_returns_spread", by_day, 5, 1)
    assert found.quantile_spread == pytest.approx(2 * half["1D"].mean(), abs=1e-9)
    turnover = theirs.ask("quantile_turnover", theirs.data["factor_quantile"], 5)
    assert found.turnover == pytest.approx(turnover.mean(), abs=1e-9)
    autocorrelation = theirs.ask("factor_rank_autocorrelation", theirs.data)
    assert found.autocorrelation == pytest.approx(autocorrelation.mean(), abs=1e-9)


def test_ic_and_its_t_value_are_those_of_scipy() -> None:
    """Day by day Pearson's correlation; the t value of the mean of the days."""
    stats = pytest.importorskip("scipy.stats")
    close, values = make_world()
    found, returns = figures(close, values), forward_returns(close, 1)
    ic, rank_ic = [], []
    for known, gained in zip(values[:-2], returns[:-2], strict=True):
        both = ~(np.isnan(known) | np.isnan(gained))
        ic.append(stats.pearsonr(known[both], gained[both]).statistic)
        rank_ic.append(stats.spearmanr(known[both], gained[both]).statistic)
    assert found.n_trading_days == len(ic) == DAYS - 2
    assert found.ic_mean == pytest.approx(np.mean(ic), abs=1e-12)
    assert found.ic_std == pytest.approx(np.std(ic, ddof=1), abs=1e-12)
    assert found.icir == pytest.approx(np.mean(ic) / np.std(ic, ddof=1), abs=1e-12)
    assert found.ic_t == pytest.approx(stats.ttest_1samp(ic, 0).statistic, abs=1e-9)
    assert found.rank_ic_t == pytest.approx(stats.ttest_1samp(rank_ic, 0).statistic, abs=1e-9)
    assert found.ic_positive_ratio == np.mean(np.array(ic) > 0)


@pytest.mark.parametrize("values", [5, 50, 10**9])
def test_ranks_of_a_part_are_those_of_pandas(values: int) -> None:
    """With many equal values, with few and with none, whatever part of the stocks is ranked."""
    rng = np.random.default_rng(values)
    matrix = rng.integers(0, values, (30, 40)).astype(float)
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    ordered = OrderedDays(matrix)
    for share in (0.0, 0.5, 1.0):
        chosen = ~np.isnan(matrix) & (rng.random(matrix.shape) < share)
        wanted = pd.DataFrame(np.where(chosen, matrix, np.nan)).rank(axis=1).to_numpy()
        assert np.array_equal(ordered.rank(chosen), wanted, equal_nan=True)


def test_returns_are_entered_on_the_day_after() -> None:
    """For one day, the label of RD-Agent's templates: Ref($close, -2) / Ref($close, -1) - 1."""
    close = np.array([[10.0, 1], [11, 1], [12.1, 0], [9.68, 1], [9.68, 1]])
    found = forward_returns(close, 1)
    assert found[:, 0] == pytest.approx([0.1, -0.2, 0.0, np.nan, np.nan], nan_ok=True)
    # A price of nothing is none.
    assert np.isnan(found[:, 1]).tolist() == [True, True, False, True, True]
    assert forward_returns(close, 3)[:, 0] == pytest.approx([9.68 / 11 - 1, *[np.nan] * 4], nan_ok=True)
    assert np.isnan(forward_returns(close, 20)).all()


@pytest.mark.parametrize("count", range(1, 60))
def test_parts_are_those_of_qcut(count: int) -> None:
    """For any number of stocks, values between which edges fall, and many equal ones."""
    rng = np.random.default_rng(count)
    for values in (
        rng.normal(size=count),
        np.arange(count) * 0.1,
        rng.integers(0, 30, count).astype(float),
        rng.integers(0, 3, count).astype(float),
    ):
        row = np.append(values, [np.nan, np.nan])
        try:
            wanted = pd.qcut(values, 5, labels=False)
        except ValueError:
            wanted = np.full(count, -1)
        assert split_days(row[None])[0].tolist() == [*wanted, -1, -1]


def test_figures_of_a_known_case() -> None:
    """A factor that is the return itself: everything is at its best."""
    close, _ = make_world(gaps=0.0)
    returns = forward_returns(close, 1)
    found = figures(close, returns)
    assert found.ic_mean == pytest.approx(1) and found.rank_ic_mean == pytest.approx(1)
    assert found.ic_positive_ratio == 1 and found.group_return_monotonicity == pytest.approx(1)
    assert found.coverage == pytest.approx((DAYS - 2) / DAYS)
    assert found.quantile_returns is not None
    assert found.quantile_spread == pytest.approx(found.quantile_returns[4] - found.quantile_returns[0])
    top = np.array(
        [row[part == 4].mean() for row, part in zip(returns[:-2], split_days(returns[:-2]), strict=True)]
    )
    assert found.top_annual_return == pytest.approx(top.mean() * 252)
    assert found.top_sharpe == pytest.approx(top.mean() / top.std(ddof=1) * math.sqrt(252))
    wealth = pd.Series(np.cumprod(1 + top))
    assert found.top_max_drawdown == pytest.approx(min(0.0, (wealth / wealth.cummax() - 1).min()))


def test_what_cannot_be_computed_is_none() -> None:
    """No returns, no values, one value for all: never a number that was made up."""
    close, values = make_world()
    empty = FactorFigures(coverage=0.0)
    assert figures(close, np.full_like(values, np.nan)) == empty
    same = figures(close, np.full_like(values, 3.1))
    assert (same.ic_mean, same.rank_ic_mean, same.quantile_returns, same.coverage) == (None, None, None, 1.0)
    without = describe_factor(values, {}, ~np.isnan(close))
    assert without == FactorFigures(coverage=without.coverage)
    few = figures(close[:, :5], values[:, :5])
    assert (few.ic_mean, few.n_trading_days) == (None, 0)
    assert figures(close[:2], values[:2]).n_trading_days == 0
    assert describe_factor(values, {}, np.zeros_like(values, bool)).coverage is None


def test_sizes_of_values_do_not_matter() -> None:
    """Correlations are the same of values that are tiny, huge or far from zero; infinite ones count as none."""
    close, values = make_world()
    returns = forward_returns(close, 1)
    whole = correlate_days(values, returns)
    for scale in (1e-200, 1e200):
        assert correlate_days(values * scale, returns) == pytest.approx(whole, abs=1e-12, nan_ok=True)
    assert correlate_days(values + 1e4, returns) == pytest.approx(whole, abs=1e-6, nan_ok=True)
    infinite = np.where(np.isnan(values), np.inf, values)
    assert figures(close, infinite) == figures(close, values)


def test_half_life_is_that_of_an_exponential() -> None:
    """Rank ICs that halve in seven days."""
    decay = {horizon: 0.08 * 0.5 ** (horizon / 7) for horizon in HORIZONS}
    assert metrics._half_life(decay) == pytest.approx(7)
    assert metrics._half_life({1: 0.02, 5: 0.03}) is None
    assert metrics._half_life({1: 0.02, 5: None}) is None


def test_excess_over_the_market() -> None:
    """The top fifth less the mean of all fifths, day by day: mean and Sharpe ratio over a year."""
    close, _ = make_world(gaps=0.0)
    returns = forward_returns(close, 1)
    found = figures(close, returns)
    excess = []
    for row, part in zip(returns[:-2], split_days(returns[:-2]), strict=True):
        fifths = [row[part == number].mean() for number in range(5)]
        excess.append(fifths[-1] - np.mean(fifths))
    assert found.top_excess_annual_return == pytest.approx(np.mean(excess) * 252)
    assert found.top_excess_sharpe == pytest.approx(np.mean(excess) / np.std(excess, ddof=1) * math.sqrt(252))


def test_what_does_not_fall_has_no_half_life() -> None:
    """Rank ICs that are the same over all horizons never halve."""
    assert metrics._half_life(dict.fromkeys(HORIZONS, 1.0)) is None

"""What a Sharpe ratio is worth, after counting how many were tried: on daily returns, nothing annualized.

Every Sharpe ratio here is of daily excess returns, mean over standard deviation with ddof 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Matrix = NDArray[np.float64]

BLOCKS = 16
"""Of CSCV, as in Bailey et al. (2015): 12,870 ways to halve the days."""
_LEAST_BLOCK = 4
"""Days; fewer have no standard deviation worth the name."""
_EULER = float(np.euler_gamma)


def sharpe(returns: Matrix) -> Vector:
    """Sharpe ratio of each column; NaN where it does not vary.

    Args:
        returns: Days by trials, or days alone.
    """
    spread = returns.std(axis=0, ddof=1)
    constant = np.ptp(returns, axis=0) == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(constant, np.nan, returns.mean(axis=0) / spread)


@dataclass(frozen=True, slots=True)
class SharpeError:
    """A Sharpe ratio and its standard error.

    Attributes:
        value: Daily.
        error: Newey-West, by the ratio's influence function (Lo 2002, section "GMM").
        lags: Of the Bartlett kernel, ``floor(4 (T/100)^(2/9))`` (Newey and West 1994).
    """

    value: float
    error: float
    lags: int


def sharpe_with_error(returns: Vector) -> SharpeError:
    """Sharpe ratio with a standard error that allows for autocorrelation, skew and fat tails."""
    value = float(sharpe(returns))
    z = (returns - returns.mean()) / returns.std(ddof=1)
    influence = z - value / 2 * (z**2 - 1)
    lags = newey_west_lags(len(returns))
    return SharpeError(value, mean_error(influence, lags), lags)


def newey_west_lags(days: int) -> int:
    """``floor(4 (T/100)^(2/9))`` (Newey and West 1994)."""
    return int(4 * (days / 100) ** (2 / 9))


def mean_error(values: Vector, lags: int) -> float:
    """Newey-West standard error of a mean (Bartlett kernel, no small-sample correction)."""
    from statsmodels.regression.linear_model import OLS

    fit = OLS(values, np.ones(len(values))).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    return float(fit.bse[0])


def probabilistic_sharpe(returns: Vector, threshold: float = 0.0) -> float:
    """`probability_of`, with the moments of the sample itself."""
    return probability_of(float(sharpe(returns)), threshold, len(returns), *_moments(returns))


def probability_of(value: float, threshold: float, days: int, skew: float, kurtosis: float) -> float:
    """``Φ((SR - SR*) √(T - 1) / √(1 - γ₃ SR + (γ₄ - 1)/4 SR²))`` (Bailey and López de Prado 2012, equation 8).

    Args:
        value, threshold: SR and SR*, daily.
        kurtosis: Of a normal distribution it is 3.
    """
    return float(stats.norm.cdf((value - threshold) * math.sqrt(days - 1) / _spread(value, skew, kurtosis)))


def _moments(returns: Vector) -> tuple[float, float]:
    return float(stats.skew(returns)), float(stats.kurtosis(returns, fisher=False))


def _spread(value: float, skew: float, kurtosis: float) -> float:
    return math.sqrt(1 - skew * value + (kurtosis - 1) / 4 * value**2)


def expected_best(variance: float, trials: float) -> float:
    """Expected largest Sharpe ratio of trials without skill (Bailey and López de Prado 2014, equation 1).

    Args:
        variance: Of the trials' Sharpe ratios.
        trials: How many independent ones; 1 or less has nothing to choose from, and gives 0.
    """
    if trials <= 1:
        return 0.0
    first = stats.norm.ppf(1 - 1 / trials)
    second = stats.norm.ppf(1 - 1 / (trials * math.e))
    return float(math.sqrt(variance) * ((1 - _EULER) * first + _EULER * second))


def effective_trials(returns: Matrix) -> float:
    """How many independent trials there were: ``ρ + (1 - ρ) N`` with the mean correlation ρ, at least 0.

    Bailey and López de Prado (2014), appendix 3.

    Args:
        returns: Days by trials, none of them constant.
    """
    count = returns.shape[1]
    if count < 2:
        return float(count)
    correlation = np.corrcoef(returns, rowvar=False)
    mean = float((correlation.sum() - count) / (count * (count - 1)))
    mean = min(max(mean, 0.0), 1.0)
    return float(mean + (1 - mean) * count)


def minimum_track_record(returns: Vector, confidence: float = 0.95) -> float | None:
    """Days that a Sharpe ratio of this size needs to be above 0 with this confidence.

    Bailey and López de Prado (2012), equation 12. None where it is not above 0 at all.
    """
    value = float(sharpe(returns))
    if not value > 0:
        return None
    return float(1 + (_spread(value, *_moments(returns)) * stats.norm.ppf(confidence) / value) ** 2)


@dataclass(frozen=True, slots=True)
class Haircut:
    """A Sharpe ratio after a correction for many tests (Harvey and Liu 2015).

    Attributes:
        method: ``bonferroni``, ``holm`` or ``bhy`` (Benjamini, Hochberg and Yekutieli).
        p: The winner's p value, corrected.
        sharpe: The daily Sharpe ratio that alone would have this p value.
        share: How much of the ratio that takes away, 0 to 1.
    """

    method: str
    p: float
    sharpe: float
    share: float


def haircuts(ratios: Vector, winner: int, days: int) -> tuple[Haircut, ...]:
    """The winner's Sharpe ratio after each of three corrections.

    Args:
        ratios: Of all trials with returns.
        winner: Its place among them.
        days: Of the back-test.
    """
    from statsmodels.stats.multitest import multipletests

    p = 2 * stats.norm.sf(np.abs(ratios) * math.sqrt(days))
    found = []
    for name, method in (("bonferroni", "bonferroni"), ("holm", "holm"), ("bhy", "fdr_by")):
        corrected = float(multipletests(p, method=method)[1][winner])
        left = float(stats.norm.isf(corrected / 2)) / math.sqrt(days)
        whole = abs(float(ratios[winner]))
        found.append(Haircut(name, corrected, left, 1 - left / whole if whole else 0.0))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Overfitting:
    """Whether the best in one half of the days is any good in the other (CSCV, Bailey et al. 2015).

    Attributes:
        probability: Share of the ways to halve in which the best falls into the lower half: PBO.
        logits: One for each way, ``ln(ω / (1 - ω))`` of the best one's relative rank ω in the other half.
        blocks: Into how many the days were cut.
    """

    probability: float
    logits: Vector
    blocks: int


def cross_validate(returns: Matrix) -> Overfitting | None:
    """Combinatorially symmetric cross-validation of choosing by Sharpe ratio.

    Args:
        returns: Days by trials, none of them constant. Days that do not fill the blocks are left out at the start.

    Returns:
        None where there are fewer than two trials, or too few days for four blocks.
    """
    days, trials = returns.shape
    blocks = min(BLOCKS, days // _LEAST_BLOCK // 2 * 2)
    if trials < 2 or blocks < 4:
        return None
    length = days // blocks
    cut = returns[days - blocks * length :].reshape(blocks, length, trials)
    sums, squares = cut.sum(axis=1), (cut**2).sum(axis=1)
    chosen = np.zeros((math.comb(blocks, blocks // 2), blocks))
    for row, places in enumerate(combinations(range(blocks), blocks // 2)):
        chosen[row, places] = 1.0
    half = blocks // 2 * length
    inside = _ratios(chosen @ sums, chosen @ squares, half)
    outside = _ratios((1 - chosen) @ sums, (1 - chosen) @ squares, half)
    best = inside.argmax(axis=1)
    rank: Any = stats.rankdata(outside, axis=1)[np.arange(len(best)), best]
    share = rank / (trials + 1)
    logits = np.log(share / (1 - share))
    return Overfitting(float((logits <= 0).mean()), logits, blocks)


def _ratios(sums: Matrix, squares: Matrix, days: int) -> Matrix:
    mean = sums / days
    variance = np.maximum(squares - days * mean**2, 0.0) / (days - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Constant in this half: neither good nor bad.
        return np.where(variance > 0, mean / np.sqrt(variance), 0.0)

"""Sharpe ratios and what they are worth, held to published examples and to independent computations."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from rdagent_sota_patch.evidence.sharpe import (
    cross_validate,
    effective_trials,
    expected_best,
    haircuts,
    mean_error,
    minimum_track_record,
    newey_west_lags,
    probabilistic_sharpe,
    probability_of,
    sharpe,
    sharpe_with_error,
)

RETURNS = np.random.default_rng(3).standard_t(5, (240, 6)) * 0.01 + np.linspace(-0.001, 0.002, 6)


def test_the_published_example() -> None:
    """Bailey and López de Prado (2014), section "A numerical example": 100 trials, five years, SR 2.5 a year."""
    threshold = expected_best(0.5 / 250, 100)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    assert probability_of(2.5 / math.sqrt(250), threshold, 1250, -3, 10) == pytest.approx(0.9004, abs=5e-5)
    fewer = expected_best(0.5 / 250, 46)
    assert probability_of(2.5 / math.sqrt(250), fewer, 1250, -3, 10) == pytest.approx(0.9505, abs=5e-5)


def test_one_trial_has_nothing_to_choose_from() -> None:
    assert expected_best(0.5, 1) == 0.0
    assert effective_trials(RETURNS[:, :1]) == 1.0


def test_sharpe_is_daily_and_of_ddof_1() -> None:
    expected = [column.mean() / np.sqrt(((column - column.mean()) ** 2).sum() / 239) for column in RETURNS.T]
    np.testing.assert_allclose(sharpe(RETURNS), expected, rtol=1e-12)
    assert math.isnan(float(sharpe(np.full(10, 0.1))))


def test_probabilistic_sharpe_by_hand() -> None:
    column = RETURNS[:, 5]
    m = column.mean()
    s2 = ((column - m) ** 2).mean()
    skew, kurtosis = ((column - m) ** 3).mean() / s2**1.5, ((column - m) ** 4).mean() / s2**2
    ratio = m / column.std(ddof=1)
    z = (ratio - 0.02) * math.sqrt(239) / math.sqrt(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2)
    assert probabilistic_sharpe(column, 0.02) == pytest.approx(stats.norm.cdf(z), abs=1e-12)


def test_errors_are_newey_and_wests() -> None:
    """Bartlett weights over the autocovariances, written out."""
    column = RETURNS[:, 2]
    lags = newey_west_lags(len(column))
    assert lags == 4
    centred = column - column.mean()
    total = centred @ centred
    for lag in range(1, lags + 1):
        total += 2 * (1 - lag / (lags + 1)) * (centred[lag:] @ centred[:-lag])
    assert mean_error(column, lags) == pytest.approx(math.sqrt(total) / 240, rel=1e-9)


def test_the_error_of_a_sharpe_ratio_is_the_spread_of_many() -> None:
    """Of 2,000 samples of white noise, the ratios differ by what the error says."""
    draws = np.random.default_rng(1).normal(0.05, 1, (500, 2000))
    assert sharpe_with_error(draws[:, 0]).error == pytest.approx(float(sharpe(draws).std()), rel=0.15)


def test_minimum_track_record_is_where_the_probability_is_reached() -> None:
    """With as many days as it says, the same moments reach exactly 95 %."""
    column = RETURNS[:, 5]
    days = minimum_track_record(column)
    assert days is not None
    ratio = float(sharpe(column))
    z = probability_of(ratio, 0, 2, float(stats.skew(column)), float(stats.kurtosis(column, fisher=False)))
    assert stats.norm.cdf(stats.norm.ppf(z) * math.sqrt(days - 1)) == pytest.approx(0.95, abs=1e-9)
    assert minimum_track_record(-np.abs(column)) is None


def test_effective_trials_between_copies_and_strangers() -> None:
    column = RETURNS[:, :1]
    assert effective_trials(np.hstack([column, 2 * column, column + 1])) == pytest.approx(1, abs=1e-9)
    strangers = effective_trials(np.random.default_rng(0).normal(size=(20_000, 8)))
    assert strangers == pytest.approx(8, abs=0.2)


def test_pbo_by_hand() -> None:
    """Every way to halve, written out with numpy's own mean and deviation."""
    trials = RETURNS.shape[1]
    found = cross_validate(RETURNS)
    assert found is not None
    assert found.blocks == 16
    blocks = np.split(RETURNS, 16)
    logits = []
    for inside in combinations(range(16), 8):
        first = np.vstack([blocks[place] for place in inside])
        second = np.vstack([blocks[place] for place in range(16) if place not in inside])
        best = int((first.mean(0) / first.std(0, ddof=1)).argmax())
        outside = second.mean(0) / second.std(0, ddof=1)
        rank = (outside < outside[best]).sum() + 1
        share = rank / (trials + 1)
        logits.append(math.log(share / (1 - share)))
    np.testing.assert_allclose(found.logits, logits, atol=1e-9)
    assert found.probability == pytest.approx(np.mean(np.array(logits) <= 0), abs=1e-12)


def test_pbo_needs_a_choice_and_days() -> None:
    assert cross_validate(RETURNS[:, :1]) is None
    assert cross_validate(RETURNS[:10]) is None


def test_haircuts_by_hand() -> None:
    """Bonferroni's is the p value times the number of trials; the others take no more than it."""
    ratios = np.array([0.2, 0.05, -0.01])
    bonferroni, holm, bhy = haircuts(ratios, 0, 250)
    p = 2 * (1 - stats.norm.cdf(0.2 * math.sqrt(250)))
    assert bonferroni.p == pytest.approx(3 * p, rel=1e-9)
    assert bonferroni.sharpe == pytest.approx(stats.norm.isf(1.5 * p) / math.sqrt(250), rel=1e-9)
    assert bonferroni.share == pytest.approx(1 - bonferroni.sharpe / 0.2, rel=1e-9)
    assert holm.p == pytest.approx(bonferroni.p, rel=1e-9)
    assert bhy.p == pytest.approx(3 * p * (1 + 1 / 2 + 1 / 3), rel=1e-9)

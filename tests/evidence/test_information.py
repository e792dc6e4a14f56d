"""The daily IC in figures."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.evidence.information import describe_ic
from rdagent_sota_patch.evidence.sharpe import mean_error, newey_west_lags

DAYS = pd.bdate_range("2020-12-01", periods=120, name="datetime")


def test_figures_by_hand() -> None:
    values = np.random.default_rng(2).normal(0.03, 0.1, 120)
    daily = pd.Series(values, index=DAYS)
    daily.iloc[5] = np.nan
    found = describe_ic(daily)
    assert found is not None
    kept = np.delete(values, 5)
    assert (found.days, found.mean) == (119, pytest.approx(kept.mean(), abs=1e-15))
    assert found.t == pytest.approx(kept.mean() / kept.std(ddof=1) * math.sqrt(119), rel=1e-12)
    assert found.t_newey_west == pytest.approx(
        kept.mean() / mean_error(kept, newey_west_lags(119)), rel=1e-12
    )
    december = np.delete(values[: (DAYS < "2021-01-01").sum()], 5)
    assert found.by_year["2020"] == pytest.approx(december.mean(), abs=1e-15)
    assert found.by_month["2020-12"] == pytest.approx(december.mean(), abs=1e-15)
    assert list(found.by_month)[:3] == ["2020-12", "2021-01", "2021-02"]


def test_the_half_life_of_an_ar1() -> None:
    """φ = 0.8 halves in ln 0.5 / ln 0.8 = 3.1 days."""
    rng = np.random.default_rng(4)
    values = np.zeros(20_000)
    for day in range(1, len(values)):
        values[day] = 0.8 * values[day - 1] + rng.normal()
    found = describe_ic(pd.Series(values, index=pd.date_range("1950-01-01", periods=len(values))))
    assert found is not None
    assert found.half_life == pytest.approx(math.log(0.5) / math.log(0.8), rel=0.05)


def test_too_little_is_not_made_up() -> None:
    assert describe_ic(pd.Series([np.nan] * 3, index=DAYS[:3])) is None
    few = describe_ic(pd.Series([0.1, 0.2, 0.1], index=DAYS[:3]))
    assert few is not None
    assert (few.t, few.half_life) == (None, None)
    constant = describe_ic(pd.Series([0.1] * 50, index=DAYS[:50]))
    assert constant is not None
    assert constant.t is None

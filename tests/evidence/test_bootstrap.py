"""Tests and bands by block bootstrap: what they are for, and that they repeat."""

from __future__ import annotations

import numpy as np
import pytest

from rdagent_sota_patch.evidence.bootstrap import compare_best, largest_fall, resample_paths

NOISE = np.random.default_rng(5).normal(0, 0.01, (250, 20))
NOISE -= NOISE.mean(axis=0)


def test_the_best_of_noise_is_no_find_and_a_planted_one_is() -> None:
    assert compare_best(NOISE).spa_p > 0.5
    planted = NOISE.copy()
    planted[:, 3] += 0.004
    found = compare_best(planted)
    assert found.spa_p < 0.01
    assert found.reality_check_p < 0.01
    assert found == compare_best(planted)


def test_the_largest_fall() -> None:
    assert largest_fall(np.array([0.1, 0.3, 0.05, 0.4, 0.2])) == pytest.approx(0.25)
    assert largest_fall(np.array([-0.2, 0.1])) == pytest.approx(0.2)
    assert largest_fall(np.array([0.1, 0.2])) == 0.0


def test_bands_hold_what_happened() -> None:
    paths = resample_paths(NOISE[:, 0])
    equity = NOISE[:, 0].cumsum()
    assert len(paths.low) == 250
    assert (paths.low <= paths.high).all()
    assert paths.drawdown == pytest.approx(largest_fall(equity))
    assert (np.diff(paths.drawdowns) >= 0).all()
    # Each path ends near the sum, which resampling keeps in the mean.
    assert paths.low[-1] < equity[-1] < paths.high[-1]

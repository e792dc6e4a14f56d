"""The statistics of a factor's worth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from rdagent_sota_patch.ablation.earning import Change, compare, correct, judge, overlap_of, standard_error
from rdagent_sota_patch.ablation.walk import Window

RANDOM = np.random.default_rng(4)
WITH, WITHOUT = RANDOM.normal(0.05, 0.02, (8, 3)), RANDOM.normal(0.03, 0.02, (8, 3))


def test_without_overlap_it_is_the_paired_t_test() -> None:
    """Of the windows' means over seeds, one-sided."""
    change = compare(WITH, WITHOUT, 0.0)
    expected = ttest_rel(WITH.mean(axis=1), WITHOUT.mean(axis=1), alternative="greater")
    assert change.p == pytest.approx(expected.pvalue, abs=1e-12)
    assert change.mean == pytest.approx((WITH - WITHOUT).mean(), abs=1e-15)
    assert change.windows == int(((WITH - WITHOUT).mean(axis=1) > 0).sum())
    low = ttest_1samp((WITH - WITHOUT).mean(axis=1), 0).confidence_interval(0.9)
    assert change.upper == pytest.approx(low.high, abs=1e-12)


def test_shared_training_days_make_it_less_sure() -> None:
    """Nadeau and Bengio: the variance of the mean is (1/W + test/train) times that of a window, not 1/W."""
    plain, corrected = compare(WITH, WITHOUT, 0.0), compare(WITH, WITHOUT, 0.1)
    assert corrected.error / plain.error == pytest.approx(np.sqrt((1 / 8 + 0.1) / (1 / 8)))
    assert corrected.p > plain.p


def test_overlap() -> None:
    """Test days over the days that a training sees."""
    windows = [Window((0, 90), (92, 100), (102, 122)), Window((0, 190), (192, 200), (202, 222))]
    assert overlap_of(windows) == pytest.approx((0.2 + 0.1) / 2)


def test_a_single_window_tells_nothing() -> None:
    change = compare(WITH[:1], WITHOUT[:1], 0.1)
    assert (change.p, change.upper) == (1.0, float("inf"))
    assert judge(change, 1.0) == "cannot be told"
    assert standard_error(WITH[:1]) == float("inf")


def test_what_no_model_uses_changes_nothing() -> None:
    change = compare(WITH, WITH, 0.1)
    assert (change.mean, change.p, change.windows) == (0.0, 1.0, 0)
    assert judge(change, 1.0) == "does not"


def test_holm() -> None:
    """The smallest p value times the number of them, the next times one less; never falling."""
    assert correct([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert correct([]) == []


@pytest.mark.parametrize(
    ("change", "corrected", "verdict"),
    [
        (Change(0.02, 0.002, 8, 1e-5, 0.024), 2e-4, "helps"),
        (Change(0.02, 0.01, 6, 0.04, 0.039), 0.4, "cannot be told"),
        (Change(-0.001, 0.001, 3, 0.8, 0.0009), 1.0, "does not"),
        (Change(-0.02, 0.002, 0, 1.0, -0.016), 1.0, "does not"),
    ],
)
def test_verdicts(change: Change, corrected: float, verdict: str) -> None:
    """What was not shown is not denied: it may still be worth more than 0.002."""
    assert judge(change, corrected) == verdict

"""The paired test over seeds: held to scipy's, its errors counted, and what a run may spend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from rdagent_sota_patch.evidence.seed_test import (
    ERROR_OF_RUN,
    affordable_pairs,
    compare_seeds,
    level_of,
)


def drawn(rng: np.random.Generator, mean: float = 0.0) -> Callable[[int], float]:
    """A training whose result varies with standard deviation 1."""
    return lambda _: float(rng.normal(mean))


def listed(*values: float) -> Callable[[int], float]:
    """A training with these results for seed 1, 2, …"""
    return lambda seed: values[seed - 1]


def test_equals_the_paired_t_test() -> None:
    """Mean, error and p value are those of scipy's one-sided paired t test, at the pair where it ended."""
    new, sota = (0.12, 0.31, 0.18, 0.29), (0.05, 0.10, 0.11, 0.06)
    test = compare_seeds(listed(*new), listed(*sota), 4, 0.05)
    reference = stats.ttest_rel(test.new, test.sota, alternative="greater")
    assert test.p == pytest.approx(reference.pvalue, abs=1e-12)
    assert test.mean / test.error == pytest.approx(reference.statistic, abs=1e-9)
    assert (test.new, test.sota) == (new, sota)


def test_levels_of_the_looks_sum_up_to_alpha() -> None:
    """α (n/N)³ is spent after n of N pairs: 0.064, 0.152, 0.296 and 0.488 of it with five."""
    levels = []
    for pairs in range(2, 6):
        # Ends at the look that is asked for: hopeless from there on.
        differences = [1.0, 2.0, 0.5, 1.5, 1.0][: pairs - 1] + [-1000.0] * (6 - pairs)
        levels.append(compare_seeds(listed(*differences), listed(*[0.0] * 5), 5, 1e-6).level)
    assert np.array(levels) / 1e-6 == pytest.approx([0.064, 0.152, 0.296, 0.488])


def test_clear_cases_stop_early() -> None:
    """What is plainly better, or plainly not, is not trained to the last seed."""
    better = compare_seeds(listed(1.0, 1.01, 1.02, 1.0, 1.0), listed(0, 0, 0.01, 0, 0), 5, 0.025)
    assert (better.outcome, len(better.new)) == ("better", 2)
    worse = compare_seeds(listed(1.0, 2.0), listed(1.5, 2.5), 5, 0.025)
    assert (worse.outcome, len(worse.new)) == ("not better", 2)


@pytest.mark.parametrize("last_bit", [0.0, 1e-12])
def test_the_same_model_is_not_better(last_bit: float) -> None:
    """Results that are equal with equal seeds, up to the order of sums, are not an improvement."""
    test = compare_seeds(listed(0.1 + last_bit, 0.2 + last_bit), listed(0.1, 0.2), 5, 0.025)
    assert (test.outcome, test.p) == ("not better", 0.5)


@pytest.mark.parametrize(("new", "outcome"), [(0.12, "better"), (0.1, "not better"), (0.08, "not better")])
def test_seeds_that_change_nothing(new: float, outcome: str) -> None:
    """LightGBM on fixed parameters: there is no noise, and two trainings each show it."""
    test = compare_seeds(listed(new, new, new), listed(0.1, 0.1, 0.1), 3, 0.025)
    assert (test.outcome, test.p, len(test.new)) == (outcome, None, 2)


@pytest.mark.parametrize("pairs", [2, 3, 5, 10])
def test_error_of_one_test(pairs: int) -> None:
    """Equally good models: taken for better in at most alpha of 4,000 tests, looks and all."""
    rng = np.random.default_rng(pairs)
    taken = [compare_seeds(drawn(rng), drawn(rng), pairs, 0.05).outcome == "better" for _ in range(4000)]
    assert np.mean(taken) <= 0.05


def test_power_of_one_test() -> None:
    """Five seeds find an improvement of three standard deviations of a training in three of four cases."""
    rng = np.random.default_rng(1)
    found = [
        compare_seeds(drawn(rng, 3), drawn(rng), 5, level_of(1)).outcome == "better" for _ in range(1000)
    ]
    assert np.mean(found) >= 0.75


def test_levels_of_a_run_sum_up() -> None:
    """However many tests a run makes, their errors together stay within that of the run."""
    levels = [level_of(number) for number in range(1, 1001)]
    assert levels[:3] == pytest.approx([0.025, 0.05 / 6, 0.05 / 12])
    assert 0.999 * ERROR_OF_RUN <= sum(levels) <= ERROR_OF_RUN


@pytest.mark.parametrize(
    ("trials", "trained", "known", "pairs"),
    [
        (2, 0, 0, 5),
        (3, 4, 2, 4),
        (3, 10, 5, 0),
        (10, 8, 2, 2),
        (12, 8, 0, 2),
        (20, 8, 5, 5),
    ],
)
def test_what_a_run_may_train(trials: int, trained: int, known: int, pairs: int) -> None:
    """At most as many models again as it has loops, or two times the seeds; the SOTA's known seeds cost nothing."""
    assert affordable_pairs(5, trials, trained, known) == pairs

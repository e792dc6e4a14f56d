"""Whether a model is better than another by more than the noise of seeds: a paired test that stops early."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

METRIC = "1day.excess_return_with_cost.annualized_return"
"""What RD-Agent's prompt has the language model accept by, as ``qlib_res.csv`` names it."""
FEWEST_PAIRS = 2
"""One difference has no spread to be held against."""
ERROR_OF_RUN = 0.05
"""Chance that a run accepts anything where no model is better than another."""
_SAME = 1e-9
"""Sums in another order, by several threads, make results differ by less."""
_HOPELESS = 0.25
"""A p value from which on further pairs are not worth their time; it only makes acceptances rarer."""

Outcome = Literal["better", "not better"]


@dataclass(frozen=True, slots=True)
class SeedTest:
    """What the trainings of two models with the same seeds say.

    Attributes:
        outcome: ``better``: by more than the noise.
        new, sota: The metric for seed 1, 2, …; as many of each.
        mean: Mean of the differences, new less SOTA.
        error: Standard error of that mean.
        p: One-sided p value of the paired t test; None where seeds change neither model: there is nothing to test.
        level: What ``p`` was held to at the last pair.
    """

    outcome: Outcome
    new: tuple[float, ...]
    sota: tuple[float, ...]
    mean: float
    error: float
    p: float | None
    level: float


def compare_seeds(
    train_new: Callable[[int], float], train_sota: Callable[[int], float], pairs: int, alpha: float
) -> SeedTest:
    """Train two models with seed 1, 2, … until it is clear whether the new one is better.

    After each pair from the second on, the one-sided paired t test of all differences so far is held to its share of
    ``alpha``: the power family of Kim and DeMets (1987, Biometrika 74) with exponent 3, α (n/N)³. The shares are
    added up as Bonferroni does, which is exact for normal differences whatever the looks have in common.

    Args:
        train_new: The new model's metric, larger is better, when trained with a seed.
        train_sota: The same of the model that it is compared with.
        pairs: The most pairs, at least `FEWEST_PAIRS`.
        alpha: Chance of taking the new model for better where both are equally good.
    """
    new: list[float] = []
    sota: list[float] = []
    levels = _levels(pairs, alpha)
    for seed in range(1, pairs + 1):
        new.append(train_new(seed))
        sota.append(train_sota(seed))
        if seed < FEWEST_PAIRS:
            continue
        test = _look(new, sota, levels[seed - FEWEST_PAIRS])
        if test.outcome == "better" or test.p is None or test.p >= _HOPELESS or seed == pairs:
            return test
    raise ValueError(f"at least {FEWEST_PAIRS} pairs are needed, not {pairs}")


def level_of(number: int) -> float:
    """The error that a run's ``number``-th test may make, from 1 on.

    They sum up to `ERROR_OF_RUN`, however many tests there will be: 1/(1·2) + 1/(2·3) + … = 1.
    """
    return ERROR_OF_RUN / (number * (number + 1))


def is_constant(values: Sequence[float]) -> bool:
    """Whether seeds do not change a result, but for the order of sums."""
    return max(values) - min(values) <= _SAME


def require_scipy() -> None:
    """Make sure that the test can be computed.

    Raises:
        SotaError: ``extra-missing``.
    """
    if find_spec("scipy") is None:
        raise SotaError(
            "extra-missing",
            "SOTA_ACCEPT_SEEDS needs scipy, which is not installed.",
            "pip install 'rdagent-sota-patch[evidence]'",
        )


def affordable_pairs(pairs: int, trials: int, trained: int, known: int) -> int:
    """The pairs that a test may take so that a run trains at most twice what it trains anyway.

    Args:
        pairs: What was asked for.
        trials: Loops of the run so far, this one included. A run shorter than two times ``pairs`` may train that many
            models more: a first test needs them.
        trained: Models that earlier tests of the run trained.
        known: Seeds with which the SOTA is trained already.
    """
    left = max(trials, 2 * pairs) - trained
    return max((n for n in range(1, pairs + 1) if n + max(0, n - known) <= left), default=0)


def _levels(pairs: int, alpha: float) -> list[float]:
    spent = [0.0, *(alpha * (n / pairs) ** 3 for n in range(FEWEST_PAIRS, pairs + 1))]
    return [after - before for before, after in pairwise(spent)]


def _look(new: Sequence[float], sota: Sequence[float], level: float) -> SeedTest:
    from scipy.special import stdtr

    differences = np.subtract(new, sota)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    if is_constant(new) and is_constant(sota):
        p = None
        better = mean > _SAME
    elif np.abs(differences).max() <= _SAME:
        p, better = 0.5, False
    else:
        # Without spread: the same improvement with every seed.
        t = mean / error if error else float(np.copysign(np.inf, mean))
        p = float(stdtr(len(differences) - 1, -t))
        better = p <= level
    outcome: Outcome = "better" if better else "not better"
    return SeedTest(outcome, tuple(new), tuple(sota), mean, error, p, level)

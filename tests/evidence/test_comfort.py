"""No false comfort: runs in a market without signal do not pass, and those with one do."""

from __future__ import annotations

import numpy as np
import pytest

from rdagent_sota_patch.evidence.weighing import weigh
from tests.evidence.made_trials import simulate_run


def pass_rate(runs: int, ic: float) -> float:
    rng = np.random.default_rng(7)
    return float(np.mean([weigh(simulate_run(rng, ic)).verdict == "pass" for _ in range(runs)]))


@pytest.mark.parametrize("runs", [40, pytest.param(500, marks=pytest.mark.proof)])
def test_noise_does_not_pass(runs: int) -> None:
    """Ten trials without signal a run; the best of them is taken."""
    assert pass_rate(runs, 0.0) <= 0.05


@pytest.mark.parametrize("runs", [20, pytest.param(500, marks=pytest.mark.proof)])
def test_a_planted_signal_passes(runs: int) -> None:
    """A daily IC of 0.03."""
    assert pass_rate(runs, 0.03) >= 0.8

"""What is said of a winner, and what is not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.evidence.trials import Ledger, Trial
from rdagent_sota_patch.evidence.weighing import p_value, percent, to_plain, weigh
from rdagent_sota_patch.mlruns.backtest import Backtest
from tests.evidence.made_trials import make_ledger, make_trial

DRIFTS = np.array([0.0, 0.0005, 0.001, 0.003])
RETURNS = np.random.default_rng(9).normal(0, 0.01, (250, 4)) + DRIFTS
TRIALS = tuple(make_trial(column, loop) for loop, column in enumerate(RETURNS.T))
GONE = Trial("run", 9, "model", "rejected", "Gone", False, Backtest.without("its workspace is gone"))


def slugs(ledger: Ledger) -> list[str]:
    return [problem.slug for problem in weigh(ledger).problems]


def test_the_figures_are_those_of_their_definitions() -> None:
    """Daily, ddof 1; N of ``dsr`` is the trials with returns, and V the variance (ddof 1) of their Sharpe ratios."""
    plain = to_plain(weigh(make_ledger(*TRIALS, GONE, winner=3)))
    ratios = RETURNS.mean(0) / RETURNS.std(0, ddof=1)
    column = RETURNS[:, 3]
    skew, kurtosis = stats.skew(column), stats.kurtosis(column, fisher=False)
    spread = math.sqrt(1 - skew * ratios[3] + (kurtosis - 1) / 4 * ratios[3] ** 2)

    def deflated(count: float) -> float:
        mixed = (1 - np.euler_gamma) * stats.norm.ppf(1 - 1 / count) + np.euler_gamma * stats.norm.ppf(
            1 - 1 / (count * math.e)
        )
        threshold = ratios.std(ddof=1) * mixed
        return float(stats.norm.cdf((ratios[3] - threshold) * math.sqrt(249) / spread))

    assert (plain["trials"], plain["trials_with_returns"]) == (5, 4)
    winner = plain["winner"]
    assert (winner["loop"], winner["kind"]) == (3, "model")
    assert winner["sharpe_daily"] == pytest.approx(ratios[3], rel=1e-9)
    assert winner["psr"] == pytest.approx(stats.norm.cdf(ratios[3] * math.sqrt(249) / spread), rel=1e-9)
    assert winner["dsr"] == pytest.approx(deflated(4), rel=1e-9)
    assert winner["dsr_all"] == pytest.approx(deflated(5), rel=1e-9)
    assert winner["dsr_effective"] == pytest.approx(deflated(plain["effective_trials"]), rel=1e-9)
    assert winner["dsr_all"] < winner["dsr"] < winner["psr"]
    assert 0 <= plain["pbo"] <= 1
    assert plain["spa_p"] < 0.05
    assert plain["verdict"] == "pass"
    assert [problem["slug"] for problem in plain["problems"]] == []
    json.dumps(plain, allow_nan=False)


def test_the_sentence_says_what_was_counted() -> None:
    evidence = weigh(make_ledger(*TRIALS, winner=3))
    assert evidence.sentence.startswith(
        "The best of 4 trials; after counting them, the chance that its Sharpe ratio"
    )
    assert weigh(make_ledger(*TRIALS, winner=1)).sentence.startswith("Number ")


def test_noise_is_not_shown() -> None:
    noise = np.random.default_rng(2).normal(0, 0.01, (250, 6))
    assert (
        weigh(make_ledger(*(make_trial(each, loop) for loop, each in enumerate(noise.T)))).verdict == "fail"
    )


def test_a_single_trial_cannot_be_told_how_it_was_chosen() -> None:
    evidence = weigh(make_ledger(TRIALS[3]))
    plain = to_plain(evidence)
    assert plain["winner"]["psr"] > 0.99
    assert (plain["winner"]["dsr"], plain["pbo"], plain["verdict"]) == (None, None, "not judged")
    assert "single-trial" in [problem["slug"] for problem in plain["problems"]]


def test_ten_days_are_no_evidence() -> None:
    short = make_ledger(*(make_trial(column[:10], loop) for loop, column in enumerate(RETURNS.T)))
    plain = to_plain(weigh(short))
    assert (plain["verdict"], plain["spa_p"], plain["pbo"]) == ("not judged", None, None)
    assert plain["winner"]["sharpe_daily"] is not None
    assert slugs(short) == ["too-few-days"]


def test_constant_returns_have_no_sharpe_ratio() -> None:
    ledger = make_ledger(make_trial(np.full(250, 0.001), 7), *TRIALS)
    assert slugs(ledger) == ["returns-constant"]
    assert weigh(ledger).verdict == "pass"
    alone = to_plain(weigh(make_ledger(make_trial(np.full(250, 0.001)))))
    assert (alone["winner"]["sharpe_daily"], alone["verdict"]) == (None, "not judged")


def test_days_without_a_number_are_missing_returns() -> None:
    broken = RETURNS[:, 0].copy()
    broken[3] = np.nan
    trial = make_trial(broken, 8)
    assert trial.excess is None
    assert trial.why_without_returns == "its returns have days without a number"
    assert to_plain(weigh(make_ledger(trial, *TRIALS)))["trials_with_returns"] == 4


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (make_trial(RETURNS[:, 0], 5, "elsewhere", "2021-01-01"), "different days: 2020-01-01…2020-12-15"),
        (
            make_trial(RETURNS[:200, 0], 5, "elsewhere"),
            r"\(250 days\) and 2020-01-01…2020-10-06 \(200 days\)",
        ),
    ],
)
def test_other_segments_are_not_pooled(other: Trial, reason: str) -> None:
    with pytest.raises(SotaError, match=reason) as caught:
        weigh(make_ledger(*TRIALS, other))
    assert caught.value.slug == "runs-not-comparable"
    assert "elsewhere, loop 5" in str(caught.value)


def test_another_benchmark_is_another_market() -> None:
    other = make_trial(RETURNS[:, 0], 5, "elsewhere")
    benchmark: Any = pd.Series(0.01, index=other.backtest.benchmark.index)  # type: ignore[union-attr]
    moved = Backtest(returns=other.backtest.returns, benchmark=benchmark, costs=other.backtest.costs)
    with pytest.raises(SotaError, match="different benchmarks"):
        weigh(make_ledger(*TRIALS, Trial("elsewhere", 5, "model", "accepted", "X", True, moved)))


def test_without_a_winner_or_any_returns() -> None:
    plain = to_plain(weigh(Ledger(TRIALS, None, ())))
    assert (plain["winner"], plain["verdict"]) == (None, "not judged")
    assert plain["problems"][-1]["slug"] == "no-winner"
    nothing = to_plain(weigh(make_ledger(GONE)))
    assert (nothing["trials"], nothing["trials_with_returns"], nothing["effective_trials"]) == (1, 0, None)
    assert nothing["winner"]["sharpe_daily"] is None


@pytest.mark.parametrize(("share", "text"), [(0.712, "71 %"), (0.999, "over 99 %"), (0.0001, "under 1 %")])
def test_a_chance_is_never_a_certainty(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_p_value_of_so_many_resamplings() -> None:
    assert (p_value(0.0), p_value(0.0124)) == ("under 0.001", "0.012")


def test_a_winner_does_not_pass_while_trials_are_known_to_be_left_out() -> None:
    problem = Problem("source-not-counted", "The factors come from a file.")
    evidence = weigh(Ledger(TRIALS, TRIALS[3], (problem,)))
    assert evidence.verdict == "not judged"
    assert "does not let it be judged" in evidence.sentence

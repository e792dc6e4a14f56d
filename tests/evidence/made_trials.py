"""Trials without a run: returns of a strategy that buys a market's best by a signal of a known IC."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rdagent_sota_patch.evidence.trials import Ledger, Trial
from rdagent_sota_patch.mlruns.backtest import Backtest

STOCKS, DAYS = 100, 250


def make_trial(returns: np.ndarray, loop: int = 0, run: str = "run", start: str = "2020-01-01") -> Trial:
    """A trial with these daily returns against a benchmark that stands still, at no cost."""
    days = pd.bdate_range(start, periods=len(returns), name="datetime")
    zero = pd.Series(0.0, index=days)
    daily = pd.Series(returns, index=days)
    backtest = Backtest(returns=daily, benchmark=zero, costs=zero, turnover=zero, ic=daily, rank_ic=daily)
    return Trial(run, loop, "model", "accepted", f"Model{loop}", True, backtest)


def make_ledger(*trials: Trial, winner: int | None = None) -> Ledger:
    """A ledger whose winner is the one that is named by its place, or the last."""
    return Ledger(trials, trials[-1 if winner is None else winner], ())


def simulate_run(rng: np.random.Generator, ic: float, trials: int = 10) -> Ledger:
    """A run in which the best trial by Sharpe ratio wins, as one that accepts any improvement ends."""
    market = rng.normal(0, 0.02, (DAYS, STOCKS))
    z = market / 0.02
    made = []
    for loop in range(trials):
        score = ic * z + np.sqrt(1 - ic**2) * rng.normal(size=z.shape)
        best = np.argpartition(-score, STOCKS // 5, axis=1)[:, : STOCKS // 5]
        bought = np.take_along_axis(market, best, axis=1).mean(axis=1)
        made.append(make_trial(bought - market.mean(axis=1), loop))
    ratios = [trial.excess.mean() / trial.excess.std() for trial in made if trial.excess is not None]
    return make_ledger(*made, winner=int(np.argmax(ratios)))

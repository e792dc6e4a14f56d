"""A back-test's days, summed up as its page draws them: equity, drawdown, IC, turnover and costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.mlruns.backtest import read_backtest

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from rdagent_sota_patch.mlruns.backtest import Backtest
    from rdagent_sota_patch.mlruns.recorder import RecorderHint

_MOST_POINTS = 600
"""Of one line; more are not told apart on a screen."""


@dataclass(frozen=True, slots=True)
class Line:
    """Values by day.

    Attributes:
        days: As ordinals (``date.toordinal``), rising.
        values: NaN where a day has none.
    """

    name: str
    days: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """The lines of a back-test, each kind empty where its numbers are missing.

    Returns are summed up, not compounded, as Qlib does it for the annualized return and the maximum drawdown
    (``qlib.contrib.evaluate.risk_analysis``): so the lowest point of `drawdown` is the metric of that name.

    Attributes:
        equity: Strategy after costs, benchmark, and the excess of one over the other.
        drawdown: Of the excess after costs.
        ic: Daily IC, the means of IC and of Rank IC up to each day.
        turnover: Of each day.
        costs: Summed up.
        missing: Why something is missing, once each.
    """

    equity: tuple[Line, ...]
    drawdown: tuple[Line, ...]
    ic: tuple[Line, ...]
    turnover: tuple[Line, ...]
    costs: tuple[Line, ...]
    missing: tuple[str, ...]


def read_curves(workspace: Path, expected: RecorderHint | None) -> Curves:
    """The lines of the back-test in a workspace; see `read_backtest` for what it takes."""
    return sum_up(read_backtest(workspace, expected))


def sum_up(backtest: Backtest) -> Curves:
    """The lines of a back-test."""
    excess, returns, costs = backtest.excess, backtest.returns, backtest.costs
    total = None if excess is None else excess.fillna(0.0).cumsum()
    net = None if returns is None or costs is None else returns - costs
    ic, rank_ic = backtest.ic, backtest.rank_ic
    return Curves(
        equity=_lines(
            ("strategy after costs", _summed(net)),
            ("benchmark", _summed(backtest.benchmark)),
            ("excess after costs", total),
        ),
        # As risk_analysis has it, whose first peak is the first day's value.
        drawdown=_lines(("excess after costs", None if total is None else total - total.cummax())),
        ic=_lines(
            ("IC of the day", ic),
            ("mean IC so far", None if ic is None else ic.expanding().mean()),
            ("mean Rank IC so far", None if rank_ic is None else rank_ic.expanding().mean()),
        ),
        turnover=_lines(("turnover of the day", backtest.turnover)),
        costs=_lines(("costs so far", _summed(costs))),
        missing=tuple(dict.fromkeys(backtest.missing.values())),
    )


def _summed(series: pd.Series[float] | None) -> pd.Series[float] | None:
    return None if series is None else series.fillna(0.0).cumsum()


def _lines(*named: tuple[str, pd.Series[float] | None]) -> tuple[Line, ...]:
    return tuple(_line(name, series) for name, series in named if series is not None and len(series))


def _line(name: str, series: pd.Series[float]) -> Line:
    values = series.to_numpy(dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    chosen = _choose(values)
    days = [day.toordinal() for day in series.index[chosen]]
    return Line(name, tuple(days), tuple(values[chosen].tolist()))


def _choose(values: np.ndarray) -> np.ndarray:
    """Which days to draw: the lowest and the highest of each stretch, so that no extreme is lost."""
    if len(values) <= _MOST_POINTS:
        return np.arange(len(values))
    chosen = {0, len(values) - 1}
    for part in np.array_split(np.arange(len(values)), _MOST_POINTS // 2):
        known = part[np.isfinite(values[part])]
        if len(known) < len(part):
            # So that a gap stays one.
            chosen.add(int(part[~np.isfinite(values[part])][0]))
        if len(known):
            chosen |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
    return np.array(sorted(chosen))

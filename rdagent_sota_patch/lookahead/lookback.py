"""How many days of history a factor's newest value needs, found by letting the data begin later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.lookahead.panel import REPEATABLE, UnusableValues, compare, panel_of
from rdagent_sota_patch.lookahead.windows import choose_between, choose_histories, choose_longer, needed_of
from rdagent_sota_patch.sandbox.factors import run_trials
from rdagent_sota_patch.sandbox.outputs import Unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.lookahead.market_cuts import AuditMarket
    from rdagent_sota_patch.lookahead.panel import Panel
    from rdagent_sota_patch.sandbox.factors import Run
    from rdagent_sota_patch.sandbox.limits import Limits

_OTHER_DAYS = 3
"""On how many earlier days the length is checked: a stock that was halted lately needs older rows."""


def measure_lookback(
    code: str, full: Panel, given: tuple[AuditMarket, frozenset[str]], limits: Limits
) -> int | None:
    """The fewest trading days, the day itself counted, from which every stock's value is the full run's.

    Equal means within `REPEATABLE` of the size: running sums that begin elsewhere round otherwise. The
    length is that of the newest day, or of an earlier day on which more is needed.

    Args:
        code: Text of ``factor.py``; found causal.
        full: Its values on the whole data.
        given: The market data, and which of its dated tables the code reads.

    Returns:
        None where no shorter history will do, or the newest day has no value to judge by.
    """
    market, names = given
    search = _Search(code, full, market, names, limits)
    newest = market.days[-1]
    if not full.day(newest).any:
        return None
    needed = search.find(newest)
    others = sorted(list(market.cuts)[-2::-2][:_OTHER_DAYS])
    if needed is None:
        return None
    lengths = [needed]
    for day in search.not_enough_on(others, needed):
        more = search.find(day, more_than=needed)
        if more is None:
            return None
        lengths.append(more)
    return max(lengths)


class _Search:
    def __init__(
        self, code: str, full: Panel, market: AuditMarket, names: frozenset[str], limits: Limits
    ) -> None:
        self._code = code
        self._names = names
        self._full = full
        self._market = market
        self._limits = limits

    def find(self, day: np.datetime64, more_than: int = 0) -> int | None:
        """The length for one day's values."""
        history = self._place(day) + 1
        lengths: Sequence[int] = choose_longer(more_than, history) if more_than else choose_histories(history)
        too_short, enough = self._try(day, lengths)
        too_short = max(too_short, more_than)
        while enough is not None and enough - too_short > 1:
            lengths = choose_between(too_short, enough)
            lower, upper = self._try(day, lengths)
            too_short, enough = max(too_short, lower), enough if upper is None else upper
        return enough

    def not_enough_on(self, days: Sequence[np.datetime64], length: int) -> list[np.datetime64]:
        """Those of ``days`` (cuts, rising) whose values another history changes: that of ``length`` days."""
        asked = [day for day in days if self._full.day(day).any and self._place(day) >= length]
        if not asked:
            return []
        trials = [self._market.newest(day, length, self._names) for day in asked]
        with run_trials(self._code, trials, self._limits, jail=self._market.jail) as runs:
            return [day for day, run in zip(asked, runs, strict=True) if not self._same(run, day)]

    def _try(self, day: np.datetime64, lengths: Sequence[int]) -> tuple[int, int | None]:
        if not lengths:
            return 0, None
        trials = [self._market.newest(day, length, self._names) for length in lengths]
        with run_trials(self._code, trials, self._limits, jail=self._market.jail) as runs:
            found = zip(lengths, runs, strict=True)
            return needed_of([(length, self._same(run, day)) for length, run in found])

    def _same(self, run: Run, day: np.datetime64) -> bool:
        try:
            result = panel_of(run.values())
        except (Unreadable, UnusableValues):
            return False
        return compare(self._full.day(day), result.day(day), day).excess <= REPEATABLE

    def _place(self, day: np.datetime64) -> int:
        return int(np.searchsorted(self._market.days, day))

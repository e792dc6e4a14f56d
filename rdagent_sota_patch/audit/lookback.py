"""How many days of history a factor's newest value needs, found by letting the data begin later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.audit.comparison import REPEATABLE, compare
from rdagent_sota_patch.audit.trials import Failure, Trial, run_trials
from rdagent_sota_patch.audit.windows import choose_between, choose_histories, choose_longer, needed_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rdagent_sota_patch.audit.market import AuditMarket
    from rdagent_sota_patch.audit.panel import Panel
    from rdagent_sota_patch.confinement.limits import Limits

_OTHER_DAYS = 3
"""On how many earlier days the length is checked: a stock that was halted lately needs older rows."""


def measure_lookback(code: str, full: Panel, market: AuditMarket, limits: Limits) -> int | None:
    """The fewest trading days, the day itself counted, from which every stock's value is the full run's.

    Equal means within `REPEATABLE` of the size: running sums that begin elsewhere round otherwise. The
    length is that of the newest day, or of an earlier day on which more is needed.

    Args:
        code: Text of ``factor.py``; found causal.
        full: Its values on the whole data.

    Returns:
        None where no shorter history will do, or the newest day has no value to judge by.
    """
    search = _Search(code, full, market, limits)
    newest = market.days[-1]
    if not full.day(newest).any:
        return None
    needed = search.find(newest, market.whole)
    others = sorted(list(market.cuts)[-2::-2][:_OTHER_DAYS])
    if needed is None:
        return None
    lengths = [needed]
    for day in search.not_enough_on(others, needed):
        more = search.find(day, market.cuts[day], more_than=needed)
        if more is None:
            return None
        lengths.append(more)
    return max(lengths)


class _Search:
    def __init__(self, code: str, full: Panel, market: AuditMarket, limits: Limits) -> None:
        self._code = code
        self._full = full
        self._market = market
        self._limits = limits

    def find(self, day: np.datetime64, data: Path, more_than: int = 0) -> int | None:
        """The length for one day's values; ``data`` ends on it."""
        history = self._place(day) + 1
        lengths: Sequence[int] = choose_longer(more_than, history) if more_than else choose_histories(history)
        too_short, enough = self._try(day, data, lengths)
        too_short = max(too_short, more_than)
        while enough is not None and enough - too_short > 1:
            lengths = choose_between(too_short, enough)
            lower, upper = self._try(day, data, lengths)
            too_short, enough = max(too_short, lower), enough if upper is None else upper
        return enough

    def not_enough_on(self, days: Sequence[np.datetime64], length: int) -> list[np.datetime64]:
        """Those of ``days`` (cuts, rising) whose values another history changes: that of ``length`` days."""
        asked = [day for day in days if self._full.day(day).any and self._place(day) >= length]
        trials = [self._trial(self._place(day), self._market.cuts[day], length) for day in asked]
        if not asked:
            return []
        with run_trials(self._code, trials, self._limits) as result_of:
            return [day for at, day in enumerate(asked) if not self._same(result_of(at), day)]

    def _try(self, day: np.datetime64, data: Path, lengths: Sequence[int]) -> tuple[int, int | None]:
        trials = [self._trial(self._place(day), data, length) for length in lengths]
        if not trials:
            return 0, None
        with run_trials(self._code, trials, self._limits) as result_of:
            return needed_of([(length, self._same(result_of(at), day)) for at, length in enumerate(lengths)])

    def _same(self, result: Panel | Failure, day: np.datetime64) -> bool:
        if isinstance(result, Failure):
            return False
        return compare(self._full.day(day), result.day(day), day).excess <= REPEATABLE

    def _trial(self, place: int, data: Path, length: int) -> Trial:
        start = str(self._market.days[place - length + 1])
        if data != self._market.whole:
            return Trial(data, start)
        if length in self._market.tails:
            return Trial(self._market.tails[length])
        # The shortest copy that will do, since it is read whole.
        longer = [tail for tail in self._market.tails if tail > length]
        return Trial(self._market.tails[min(longer)] if longer else data, start)

    def _place(self, day: np.datetime64) -> int:
        return int(np.searchsorted(self._market.days, day))

"""The data folder as an audit needs it: whole, cut off on several days, and beginning later."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rdagent_sota_patch.lookahead.windows import (
    MarketDays,
    choose_cuts,
    choose_ends,
    choose_histories,
    choose_special_cuts,
)
from rdagent_sota_patch.sandbox.factors import Trial
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import MarketTable, read_market

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rdagent_sota_patch.sandbox.factors import Run


@dataclass(frozen=True, slots=True, eq=False)
class AuditMarket:
    """Market data and its copies, each made when it is first asked for, and once for all factors.

    Attributes:
        table: What was surveyed.
        days: Its trading days, ``datetime64[ns]``, rising.
        cuts: On which days to cut it off, rising.
        more_cuts: Further ones, for factors that those did not show to peek; rising.
        ends: Likewise, last days of their own for each stock: places of days, -1 for none; one array for each run.
        count: How many cuts were asked for.
        jail: Where factor code runs.
    """

    table: MarketTable
    days: np.typing.NDArray[np.datetime64]
    cuts: tuple[np.datetime64, ...]
    more_cuts: tuple[np.datetime64, ...]
    ends: tuple[np.typing.NDArray[np.int64], ...]
    count: int
    jail: Jail

    @property
    def whole(self) -> Trial:
        """All of it."""
        return Trial(self.table.data)

    def needed_by(self, *runs: Run) -> frozenset[str]:
        """The dated tables that code reads: of those that it asked for, and all where it looked through its folder."""
        dated = frozenset(self.table.dated)
        asked = frozenset[str]().union(*(run.asked | frozenset(run.missing) for run in runs))
        return dated if any(run.listed for run in runs) else dated & asked

    def until(self, days: Sequence[np.datetime64], names: frozenset[str]) -> tuple[Trial, ...]:
        """The data up to each day."""
        folders = self.table.folders([(None, pd.Timestamp(day)) for day in days], names)
        return tuple(map(Trial, folders))

    def altered_after(self, day: np.datetime64, names: frozenset[str]) -> Trial:
        """The data with another future after a day."""
        return Trial(self.table.altered_after(pd.Timestamp(day), names))

    def own_cut(self, day: np.datetime64, names: frozenset[str]) -> Trial:
        """The data up to a day that matters to one factor alone: cut when it is run, and not kept."""
        return Trial(self.table.data, dated=tuple(names), end=str(day))

    def ended(self, names: frozenset[str]) -> tuple[Trial, ...]:
        """The data with each of `ends`."""
        ends = [{name: pd.Timestamp(day) for name, day in self.by_stock(each).items()} for each in self.ends]
        return tuple(map(Trial, self.table.ended(ends, names)))

    def by_stock(self, ends: np.typing.NDArray[np.int64]) -> dict[str, np.datetime64]:
        """One of `ends` by the stocks' names."""
        stocks = self.table.instruments
        return {stocks[at]: self.days[ends[at]] for at in np.flatnonzero(ends >= 0)}

    def newest(self, last_day: np.datetime64, length: int, names: frozenset[str]) -> Trial:
        """So many trading days of data, up to a day."""
        place = int(np.searchsorted(self.days, last_day))
        start = str(self.days[place - length + 1])
        if place != len(self.days) - 1:
            (trial,) = self.until([last_day], names)
            return Trial(trial.data, start, tuple(names))
        tails = choose_histories(len(self.days))
        # The shortest copy that will do, since it is read whole; all of them are made from one reading.
        longer = [tail for tail in tails if tail >= length]
        if not longer:
            return Trial(self.table.data, start, self.table.dated)
        folders = self.table.folders([(pd.Timestamp(self.days[-tail]), None) for tail in tails], names)
        folder = folders[tails.index(longer[0])]
        return Trial(folder) if longer[0] == length else Trial(folder, start, tuple(names))


@contextmanager
def prepare_market(data: Path, cuts: int, *, trusted: bool = False) -> Iterator[AuditMarket]:
    """Survey the data and choose on which days to cut it; the copies are gone afterwards.

    Raises:
        BundleError: ``market-data-unreadable``, ``market-data-too-short``, ``confinement-failed``.
    """
    with Jail(trusted=trusted) as jail:
        table = read_market(data, jail=jail)
        days = table.days.to_numpy().astype("datetime64[ns]")
        market = MarketDays(days, table.presence.complete, table.presence.traded)
        chosen = choose_cuts(market, cuts)
        more = tuple(day for day in choose_special_cuts(market, cuts) if day not in chosen)
        yield AuditMarket(table, days, chosen, more, choose_ends(market, cuts), cuts, jail)

"""On which days to cut the market data off, and which lengths of history to try.

A cut shows a peek only if its horizon crosses it: code that looks five days ahead changes the five days before a
cut. What peeks everywhere is seen by any cut. What peeks now and then needs a cut where it does: early, where a
warm-up was filled backwards; on the last day of a gap, where a fill from behind reaches; on the last day of a month,
where a period ends; where the factor's own values come, go or jump. For what is left, as many places as possible are
tried: in one run, the data of each stock can end on another day (`choose_ends`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.lookahead.panel import Panel

EARLY = 60
"""Trading days. In less data than that code may do otherwise for want of rows, and means no harm."""

_GOLDEN, _SILVER = 0.6180339887498949, 0.41421356237309515
_EARLY = (10, 40, 3, 5, 20, 30)
_MANY_ENDS = 20
"""Ends of stocks for each cut, where there are few stocks: a run gives as many ends as there are stocks."""

LONGEST_HISTORY = 1024
"""Trading days; what needs more than these four years gets the whole history."""

_USUAL = (5, 10, 20, 30, 60, 120, 250)
"""Windows that factors are written with. With each the next longer one: a shift by 20 days needs 21."""


@dataclass(frozen=True, slots=True, eq=False)
class MarketDays:
    """What the market data has, day by day.

    Attributes:
        days: Trading days, sorted and unique, ``datetime64[ns]``.
        complete: By day and stock: whether it has every number.
        traded: Likewise, whether it has any.
    """

    days: NDArray[np.datetime64]
    complete: NDArray[np.bool_]
    traded: NDArray[np.bool_]

    @property
    def lacking(self) -> NDArray[np.int64]:
        """By day, the number of stocks without data that have some on a later day: halted, or not yet listed."""
        later = np.logical_or.accumulate(self.complete[::-1])[::-1]
        return (later & ~self.complete).sum(axis=1, dtype=np.int64)  # type: ignore[no-any-return]


def choose_cuts(market: MarketDays, count: int) -> tuple[np.datetime64, ...]:
    """The last days of the cut data: ``count`` spread over the period, and the last but one of all.

    In each stretch of the period, of the days in its middle half, the one on which most stocks lack data that
    comes back later: there a fill from the future shows. Among equals the weekdays take turns, and so, over the
    stretches, does the place in a month: a factor that looks ahead to the end of the week betrays itself in
    the middle of one.

    Raises:
        BundleError: ``market-data-too-short``.
    """
    least = 4 * (count + 1)
    if len(market.days) < least:
        raise BundleError(
            "market-data-too-short",
            f"The market data has {len(market.days)} trading days; an audit with {count} cuts needs {least}.",
            "Give it the data that the factors were mined on.",
        )
    # The last day is not a cut; the first stretch is history that most factors need before their first value.
    edges = np.linspace(0, len(market.days) - 2, count + 2).astype(int)[1:]
    cuts = [_in_stretch(market, *stretch, turn) for turn, stretch in enumerate(pairwise(edges))]
    return (*cuts, market.days[-2])


def _in_stretch(market: MarketDays, first: int, end: int, turn: int) -> np.datetime64:
    quarter = (end - first) // 4
    places = np.arange(first + quarter, max(end - quarter, first + quarter + 1))
    lacking = market.lacking[places]
    places = places[lacking == lacking.max()]
    weekdays = (market.days[places].astype("datetime64[D]").astype(np.int64) + 3) % 7
    distance = np.abs(places - (first + end) / 2)
    # Tuesday, Wednesday, Thursday, Monday, Friday and again: as few ends of weeks as there can be.
    wanted = (1, 2, 3, 0, 4)[turn % 5]
    best = np.lexsort((distance, weekdays != wanted))[0]
    return market.days[places[best]]  # type: ignore[no-any-return]


def choose_special_cuts(market: MarketDays, count: int) -> tuple[np.datetime64, ...]:
    """Days on which a peek shows that few others show: early ones, last days of gaps, last days of months and quarters.

    Args:
        market: What there is.
        count: How many cuts `choose_cuts` was asked for; the more, the more of these.

    Returns:
        Rising, each once.
    """
    days = market.days
    places = [rows - 1 for rows in _EARLY[: max(2, count // 8)]]
    gaps = _ends_of_gaps(market.traded)
    partly = _ends_of_gaps(market.complete | ~market.traded)
    places += [*_spread(gaps, count // 4), *_spread(partly, count // 4)]
    months = days.astype("datetime64[M]").astype(np.int64)
    ends = np.flatnonzero(np.diff(months))
    quarters = ends[months[ends] % 3 == 2]
    places += [*_spread(ends, count // 4), *_spread(quarters[len(quarters) // 2 :], count // 8)]
    return tuple(days[sorted({int(place) for place in places if 0 <= place < len(days) - 1})])


def _ends_of_gaps(there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The last day of each gap in a column, places of days, by the gap's length: the longest first."""
    before = np.logical_or.accumulate(there)
    columns, rows = np.nonzero((there[1:] & ~there[:-1] & before[:-1]).T)
    if not len(rows):
        return rows
    # How far back the last day with data lies.
    numbers = np.where(there, np.arange(len(there))[:, None], 0)
    last = np.maximum.accumulate(numbers)
    lengths = rows - last[rows, columns]
    found: NDArray[np.int64] = rows[np.lexsort((rows, -lengths))]
    return found


def _spread(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Up to ``count`` of them, the first and the last among them, evenly between."""
    if len(places) <= count:
        return places
    spread: NDArray[np.int64] = places[np.linspace(0, len(places) - 1, max(count, 1)).astype(int)]
    return spread


def choose_ends(market: MarketDays, count: int) -> tuple[NDArray[np.int64], ...]:
    """Last days of their own for each stock, several times over: the place of a day for each, -1 to keep it whole.

    First each stock in its first weeks, then each in a gap of its own where it has one, then each anywhere, so that
    days and stocks are covered evenly.

    Args:
        market: What there is.
        count: How many cuts `choose_cuts` was asked for.
    """
    there = market.traded
    stocks = there.shape[1]
    runs = int(np.clip(-(-_MANY_ENDS * count // max(stocks, 1)), count // 2, count))
    first = there.argmax(axis=0)
    last = len(there) - 1 - there[::-1].argmax(axis=0)
    room = np.where(there.any(axis=0), last - first, 0)
    gaps = _last_gap_days(market)
    found = []
    for run in range(runs):
        # Multiples of irrational numbers fill the unit interval evenly, whatever their number.
        share = (np.arange(stocks) * _GOLDEN + run * _SILVER + 0.5) % 1
        places = first + (share * room).astype(np.int64)
        if run % 4 == 0:
            places = first + np.minimum((share * EARLY).astype(np.int64), room - 1)
        elif run % 4 == 1:
            places = np.where(gaps[run // 4 % len(gaps)] >= 0, gaps[run // 4 % len(gaps)], places)
        found.append(np.where(room > 1, places, -1))
    return tuple(found)


def _last_gap_days(market: MarketDays) -> NDArray[np.int64]:
    """For some of each stock's gaps the place of its last day, -1 where it has none: (gaps, stocks)."""
    found = np.full((4, market.complete.shape[1]), -1)
    for stock, there in enumerate(market.complete.T):
        began = np.maximum.accumulate(there)
        ends = np.flatnonzero(there[1:] & ~there[:-1] & began[:-1])
        if len(ends):
            found[:, stock] = ends[np.linspace(0, len(ends) - 1, 4).astype(int)]
    return found


def choose_own_cuts(
    full: Panel, days: NDArray[np.datetime64], named: Collection[np.datetime64], count: int
) -> tuple[np.datetime64, ...]:
    """Days on which a factor's own values come, go, jump, or are what they seldom are; and those that its code names.

    Args:
        full: Its values on the whole data.
        days: The market's.
        named: Days that are written in its code.
        count: How many cuts `choose_cuts` was asked for.

    Returns:
        Rising, at most half of ``count`` of its values' and as many of those named.
    """
    inner = days[:-1]
    values = full.on(inner, full.stocks)
    here = ~np.isnan(values)
    kinds = [_rare(values, here), _jumps(values), here[1:] != here[:-1]]
    each = max(1, count // 6)
    chosen: list[np.datetime64] = []
    for kind in kinds:
        padded = kind if len(kind) == len(inner) else np.vstack([np.zeros((1, kind.shape[1]), bool), kind])
        by_day = padded.sum(axis=1)
        eventful = np.flatnonzero(by_day)
        # The fullest day, and some others spread over the time.
        fullest = eventful[np.argsort(-by_day[eventful], kind="stable")][:1]
        chosen += list(inner[np.union1d(fullest, _spread(eventful, each))][: each + 1])
    on_trading_days = [inner[max(0, int(np.searchsorted(inner, day, "right")) - 1)] for day in sorted(named)]
    chosen += on_trading_days[: count // 2]
    return tuple(np.unique(np.array(chosen, dtype="datetime64[ns]")))


def _rare(values: NDArray[np.float64], here: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a factor that mostly has one value has another."""
    known = values[here]
    if not len(known):
        return np.zeros_like(here)
    distinct, counts = np.unique(known, return_counts=True)
    if 2 * counts.max() <= len(known):
        return np.zeros_like(here)
    rare: NDArray[np.bool_] = here & (values != distinct[counts.argmax()])
    return rare


def _jumps(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The thousandth of all steps from day to day that are the largest, ten at least."""
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(values, axis=0))
    known = np.where(np.isfinite(steps), steps, 0)
    largest = min(max(10, known.size // 1000), known.size)
    if not largest:
        return np.zeros_like(known, dtype=bool)
    least = np.partition(known, known.size - largest, axis=None)[known.size - largest]
    jumps: NDArray[np.bool_] = (known >= least) & (known > 0)
    return jumps


def choose_histories(days: int) -> tuple[int, ...]:
    """Numbers of trading days, rising, to try as a factor's history in data of ``days`` days."""
    doubling = [2**power for power in range(days.bit_length())]
    usual = [window + more for window in _USUAL for more in (0, 1)]
    return tuple(sorted(length for length in {*doubling, *usual} if length < min(days, LONGEST_HISTORY + 1)))


def choose_longer(too_short: int, days: int) -> tuple[int, ...]:
    """Lengths above one that was enough for another day, rising: first not much longer, then up to all."""
    longer = {too_short + max(step, too_short * step // 4) for step in (1, 2, 4, 12, 28)}
    return tuple(sorted(length for length in longer if length < min(days, LONGEST_HISTORY + 1)))


def choose_between(too_short: int, enough: int, count: int = 12) -> tuple[int, ...]:
    """Up to ``count`` lengths strictly between two, evenly spread, rising."""
    inner = range(too_short + 1, enough)
    if len(inner) <= count:
        return tuple(inner)
    return tuple(sorted({int(length) for length in np.linspace(too_short, enough, count + 2)[1:-1]}))


def needed_of(tried: Sequence[tuple[int, bool]]) -> tuple[int, int | None]:
    """From ``(length, whether the newest values are the full run's)``, rising: longest too short, shortest enough.

    Only a length above which all are enough counts: a flag that is mostly 0 agrees with itself by chance.
    """
    too_short, enough = 0, None
    for length, same in tried:
        if not same:
            too_short, enough = length, None
        elif enough is None:
            enough = length
    return too_short, enough

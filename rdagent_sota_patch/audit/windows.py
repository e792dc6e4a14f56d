"""On which days to cut the market data off, and which lengths of history to try."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LEAST_CUTS = 8

LONGEST_HISTORY = 1024
"""Trading days; what needs more than these four years gets the whole history."""

_USUAL = (5, 10, 20, 30, 60, 120, 250)
"""Windows that factors are written with. With each the next longer one: a shift by 20 days needs 21."""


@dataclass(frozen=True, slots=True, eq=False)
class MarketDays:
    """What the market data has, day by day.

    Attributes:
        days: Trading days, sorted and unique, ``datetime64[ns]``.
        lacking: By day, the number of stocks without data that have some on a later day: halted, or not yet listed.
    """

    days: NDArray[np.datetime64]
    lacking: NDArray[np.int64]


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
    # The last day is no cut; the first stretch is history that most factors need before their first value.
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

"""Which days are cut on, and which histories are tried."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.lookahead.panel import Panel
from rdagent_sota_patch.lookahead.windows import (
    LONGEST_HISTORY,
    MarketDays,
    choose_between,
    choose_cuts,
    choose_ends,
    choose_histories,
    choose_longer,
    choose_own_cuts,
    choose_special_cuts,
    needed_of,
)

CALENDAR = pd.bdate_range("2015-01-01", periods=1000).to_numpy("datetime64[ns]")


def market(days: int = 1000, lacking: dict[int, int] | None = None, stocks: int = 5) -> MarketDays:
    """With so many stocks lacking all data on a day, by the day's place."""
    there = np.ones((days, stocks), dtype=bool)
    for place, count in (lacking or {}).items():
        there[place, :count] = False
    return MarketDays(CALENDAR[:days], there, there)


@pytest.mark.parametrize("days", [36, 60, 300, 1000])
def test_cuts_are_spread_and_end_with_the_last_but_one(days: int) -> None:
    """Rising, all different, none in the first stretch, none on the last day."""
    cuts = choose_cuts(market(days), 8)
    places = np.searchsorted(CALENDAR, np.array(cuts))
    assert len(set(places)) == 9
    assert list(places) == sorted(places)
    assert places[0] >= (days - 2) // 9
    assert places[-1] == days - 2
    assert np.diff(places).max() <= 2 * days / 9


def test_cuts_fall_on_different_weekdays() -> None:
    """A factor that looks ahead to the end of the week is not only asked on Fridays."""
    weekdays = [pd.Timestamp(cut).dayofweek for cut in choose_cuts(market(), 8)[:-1]]
    assert len(set(weekdays)) == 5
    assert weekdays.count(4) <= 1


def test_a_day_that_lacks_data_is_preferred() -> None:
    """There a fill from the future shows."""
    assert CALENDAR[170] in choose_cuts(market(lacking={170: 3, 171: 1}), 8)


def places_of(days: object) -> list[int]:
    return [int(place) for place in np.searchsorted(CALENDAR, np.array(days))]


def test_special_cuts_are_early_in_gaps_and_at_ends_of_months() -> None:
    """After 10 and 40 rows, on last days of gaps, months and quarters; more of them with more cuts."""
    gaps = dict.fromkeys((*range(300, 315), *range(500, 503)), 1)
    found = places_of(choose_special_cuts(market(lacking=gaps), 8))
    assert {9, 39, 314, 502} <= set(found)
    months = [pd.Timestamp(CALENDAR[place]).month for place in found]
    after = [pd.Timestamp(CALENDAR[place + 1]).month for place in found]
    assert sum(one != other for one, other in zip(months, after, strict=True)) >= 3
    assert len(choose_special_cuts(market(lacking=gaps), 48)) > 2 * len(found)
    assert found == sorted(set(found))


def test_a_gap_of_single_numbers_counts_as_well() -> None:
    """A stock that is traded, and lacks its volume."""
    whole = market()
    complete = whole.complete.copy()
    complete[700, 2] = False
    found = choose_special_cuts(MarketDays(whole.days, complete, whole.traded), 8)
    assert 700 in places_of(found)


def test_each_stock_ends_on_days_of_its_own() -> None:
    """First in its first weeks, then in its gap, then evenly over its listing; never on its last day."""
    there = np.ones((1000, 40), dtype=bool)
    there[:400, 3] = False
    there[600:620, 7] = False
    found = choose_ends(MarketDays(CALENDAR, there, there), 8)
    assert 4 <= len(found) <= 8
    assert (found[0] - there.argmax(axis=0)).max() < 60
    assert found[1][7] == 619
    assert min(ends[3] for ends in found) >= 400
    assert max(ends.max() for ends in found) < 999
    assert len(np.unique(np.concatenate(found[2:4]))) > 70
    assert len(choose_ends(MarketDays(CALENDAR, there[:, :3], there[:, :3]), 8)) == 8


def test_own_cuts_are_where_values_are_rare_jump_come_or_go() -> None:
    """And on days that stand in the code."""
    values = np.zeros((1000, 5))
    values[400, 2] = 1.0
    values[:250] = np.nan
    full = Panel(CALENDAR, np.array(list("abcde")), values)
    found = places_of(choose_own_cuts(full, CALENDAR, [CALENDAR[777], np.datetime64("1999-01-01", "ns")], 8))
    assert {250, 400, 777} <= set(found)
    assert len(found) <= 12


def test_too_few_days() -> None:
    """An error that says how many it takes."""
    with pytest.raises(BundleError, match=r"35 trading days.*36") as caught:
        choose_cuts(market(35), 8)
    assert caught.value.slug == "market-data-too-short"


def test_histories_rise_and_are_shorter_than_the_data() -> None:
    """With the next longer one of each usual window."""
    lengths = choose_histories(300)
    assert list(lengths) == sorted(set(lengths))
    assert lengths[0] == 1
    assert lengths[-1] < 300
    assert {20, 21, 60, 61, 250, 251} <= set(lengths)
    assert max(choose_histories(5000)) == LONGEST_HISTORY
    assert choose_histories(1) == ()


def test_what_is_longer() -> None:
    """A little at first, then much, and always less than there is."""
    assert choose_longer(21, 300) == (26, 31, 42, 84, 168)
    assert choose_longer(1, 300) == (2, 3, 5, 13, 29)
    assert choose_longer(250, 260) == ()


def test_what_lies_between() -> None:
    """All where they are few, a spread where they are many."""
    assert choose_between(5, 9) == (6, 7, 8)
    assert choose_between(5, 6) == ()
    inner = choose_between(128, 256)
    assert len(inner) == 12
    assert 128 < inner[0] < inner[-1] < 256


def test_only_an_unbroken_row_counts_as_enough() -> None:
    """A flag agrees with itself by chance."""
    assert needed_of([(1, True), (2, False), (4, True), (8, True)]) == (2, 4)
    assert needed_of([(1, True), (2, True)]) == (0, 1)
    assert needed_of([(1, True), (2, False)]) == (2, None)
    assert needed_of([]) == (0, None)

"""Which days are cut on, and which histories are tried."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.audit.windows import (
    LONGEST_HISTORY,
    MarketDays,
    choose_between,
    choose_cuts,
    choose_histories,
    choose_longer,
    needed_of,
)
from rdagent_sota_patch.errors import BundleError

CALENDAR = pd.bdate_range("2015-01-01", periods=1000).to_numpy("datetime64[ns]")


def market(days: int = 1000, lacking: dict[int, int] | None = None) -> MarketDays:
    counts = np.zeros(days, dtype=np.int64)
    for place, count in (lacking or {}).items():
        counts[place] = count
    return MarketDays(CALENDAR[:days], counts)


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

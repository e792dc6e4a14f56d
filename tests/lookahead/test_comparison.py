"""Two runs' values held against each other."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.lookahead.panel import (
    EMPTY,
    NOISE,
    REPEATABLE,
    Panel,
    UnusableValues,
    compare,
    panel_of,
)

DAYS = pd.bdate_range("2020-01-01", periods=6).to_numpy("datetime64[ns]")
STOCKS = np.array(["SH1", "SH2"])


def panel(values: object, days: int = 6, stocks: tuple[str, ...] = ("SH1", "SH2")) -> Panel:
    return Panel(DAYS[:days], np.array(stocks), np.array(values, dtype=float).reshape(days, len(stocks)))


FULL = panel(np.arange(12))


def test_the_same_past_is_the_same() -> None:
    """What lies after the cut is not compared."""
    found = compare(FULL, panel(np.arange(8), days=4), DAYS[3])
    assert found.same
    assert (found.share, found.largest, found.earliest, found.excess) == (0.0, None, None, 0.0)
    assert found.compared.sum() == 8


def test_a_changed_value_is_found() -> None:
    """With its share, its size and its day, also on the last day before the cut."""
    values = np.arange(8.0)
    values[7] += 0.5
    found = compare(FULL, panel(values, days=4), DAYS[3])
    assert not found.same
    assert (found.share, found.largest, found.earliest) == (1 / 8, 0.5, DAYS[3])
    assert found.excess > NOISE
    assert list(found.changed) == [0, 0, 0, 1]


@pytest.mark.parametrize(("full", "cut"), [(1.0, np.nan), (np.nan, 1.0), (1.0, np.inf), (np.inf, -np.inf)])
def test_a_value_that_came_or_went_has_no_size(full: float, cut: float) -> None:
    """And is never rounding."""
    found = compare(panel([full, 2.0], days=1), panel([cut, 2.0], days=1), DAYS[0])
    assert (found.share, found.largest, found.excess) == (0.5, None, np.inf)


def test_a_missing_row_is_a_missing_value() -> None:
    """A factor may drop what it has no value for; a stock that was not listed yet is not a row either."""
    full = panel([[1.0, np.nan], [2.0, np.nan]], days=2)
    assert compare(full, panel([1.0, 2.0], days=2, stocks=("SH1",)), DAYS[1]).same
    assert compare(full, panel([[1.0, np.nan]], days=1), DAYS[0]).same
    assert not compare(full, EMPTY, DAYS[1]).same
    assert compare(EMPTY, EMPTY, DAYS[1]).same


def test_infinities_equal_themselves() -> None:
    """And zeros have no sign."""
    assert compare(panel([np.inf, 0.0], days=1), panel([np.inf, -0.0], days=1), DAYS[0]).same


def test_rounding_is_seen_as_small() -> None:
    """Also of a value near 0, which is the difference of two that are not."""
    full = panel([[100.0, 1e-9]], days=1)
    found = compare(full, panel([[100.0, 2e-9]], days=1), DAYS[0])
    assert not found.same
    assert found.excess < REPEATABLE


def test_a_panel_is_made_of_rows_in_any_order() -> None:
    """Days and stocks come out sorted; a stock twice on a day is not a factor."""
    index = pd.MultiIndex.from_arrays(
        [pd.DatetimeIndex(DAYS[[1, 0, 1]]), ["SH2", "SH1", "SH1"]], names=["datetime", "instrument"]
    )
    values = pd.DataFrame({"f": [3.0, 1.0, np.nan]}, index=index)
    found = panel_of(values)
    assert list(found.days) == list(DAYS[:2])
    assert list(found.stocks) == ["SH1", "SH2"]
    np.testing.assert_array_equal(found.values, [[1.0, np.nan], [np.nan, 3.0]])
    assert found.any
    assert not panel_of(values.iloc[:0]).any
    with pytest.raises(UnusableValues, match="several values"):
        panel_of(pd.concat([values, values]))

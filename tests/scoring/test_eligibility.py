"""Which stocks can be scored, and what the others lack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.requested_day import (
    cover,
    find_disagreeing,
    find_incomplete,
    find_left_out,
    require_common_stocks,
)

DAY = pd.Timestamp("2024-01-02")
NAN = np.nan
MEMBERS = ("A", "B", "C", "D", "E")
TODAY = pd.DataFrame(
    {"Alpha1": [1, NAN, 3, NAN], "Mined1": [1, 2, NAN, NAN], "Mined2": [1, NAN, NAN, 4.0]},
    index=["A", "B", "C", "E"],
)
MINED = pd.DataFrame(
    {"Mined1": [1, 2, NAN, NAN, 9], "Mined2": [1, NAN, NAN, 4.0, 9]}, index=["A", "B", "C", "E", "Z"]
)


def test_left_out_is_who_lacks_a_whole_source() -> None:
    """No row, no Alpha feature or no mined factor; a stock that lacks only some is scored."""
    left_out = find_left_out(MEMBERS, TODAY, MINED, complete_rows=False)
    assert left_out == {
        "B": "no Alpha feature has a value",
        "C": "no mined factor has a value",
        "D": "no data in Qlib",
        "E": "no Alpha feature has a value",
    }


def test_names_the_factor_that_keeps_a_stock_out() -> None:
    """Where the training knew complete rows alone, one missing factor is all of them, and it is named."""
    joined = TODAY.assign(Alpha1=1.0)
    joined.loc[["B", "E"], ["Mined1", "Mined2"]] = NAN
    left_out = find_left_out(MEMBERS, joined, MINED, complete_rows=True)
    assert left_out["B"].startswith("lacks Mined2,")
    assert left_out["C"] == "no mined factor has a value"


def test_lists_what_scored_stocks_lack() -> None:
    """By stock, the features without a value."""
    assert find_incomplete(TODAY) == {
        "B": ("Alpha1", "Mined2"),
        "C": ("Mined1", "Mined2"),
        "E": ("Alpha1", "Mined1"),
    }
    assert find_incomplete(TODAY.iloc[:1]) == {}


def test_coverage_is_of_the_markets_stocks() -> None:
    """A mined factor is credited with what it has before the join, and not with stocks of other markets."""
    assert cover(MEMBERS, TODAY, MINED) == {"Alpha1": 0.4, "Mined1": 0.4, "Mined2": 0.4}
    assert cover((), TODAY, MINED) == {"Alpha1": 0.0, "Mined1": 0.0, "Mined2": 0.0}


def test_another_market_is_refused_and_single_stocks_are_not() -> None:
    """Names in another style, or another index's stocks: nothing would be left to score."""
    require_common_stocks(("SH1", "SH2", "SH3"), ("SH1", "SH2"), Path("daily_pv.h5"))
    with pytest.raises(
        BundleError, match=r"knows 1 of the market.s 3 stocks.* has 2.SH, SH1, and not SH2, SH3"
    ) as raised:
        require_common_stocks(("SH1", "SH2", "SH3"), ("SH1", "2.SH"), Path("daily_pv.h5"))
    assert raised.value.slug == "unknown-instruments"


def prices(*, others: int) -> tuple[pd.Series, pd.Series]:
    names = [f"S{number:02d}" for number in range(40)]
    ours = pd.Series(np.linspace(5, 50, 40), index=names).astype(np.float32)
    theirs = ours.astype(np.float64) * (1 + 1e-7)
    theirs.iloc[:others] /= 2
    return ours, theirs.iloc[::-1]


def test_one_price_in_two_precisions_is_one_price() -> None:
    """Qlib stores float32; a file of float64 does not disagree with it."""
    assert find_disagreeing(*prices(others=0), DAY) == {}


def test_a_stock_that_was_split_in_one_source_is_left_out() -> None:
    """It is named with both prices."""
    assert find_disagreeing(*prices(others=1), DAY) == {
        "S00": "its close is 2.5 in daily_pv.h5 and 5 in Qlib's data"
    }


def test_two_markets_are_refused() -> None:
    """Prices that differ for more than a few stocks are an error."""
    with pytest.raises(BundleError, match="3 of 40 stocks") as raised:
        find_disagreeing(*prices(others=3), DAY)
    assert raised.value.slug == "market-data-mismatch"

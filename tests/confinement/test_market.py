"""Market data that is looked at and cut inside the jail."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.confinement.jail import Jail
from rdagent_sota_patch.confinement.market import MarketTable, read_market
from rdagent_sota_patch.errors import BundleError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is run on Windows")


@pytest.fixture(scope="module")
def market(jail: Jail, daily_pv: Path) -> MarketTable:
    return read_market(daily_pv, jail=jail)


def test_its_outline(market: MarketTable) -> None:
    """Days in order, whatever the order of the rows."""
    assert market.days.equals(pd.bdate_range("2024-01-01", periods=20))
    assert market.instruments == tuple(f"SH60000{i}" for i in range(5))
    assert market.columns == ("$close", "$volume")
    assert market.rows == 100


def test_its_values_are_those_of_the_file(market: MarketTable, daily_pv: Path) -> None:
    """Rows, order, types."""
    expected = pd.read_hdf(daily_pv, key="data")
    assert isinstance(expected, pd.DataFrame)
    pd.testing.assert_frame_equal(market.frame(), expected, check_exact=True)


def test_cuts_are_the_same_rows_and_name_no_other_day(market: MarketTable, daily_pv: Path) -> None:
    """A level that still names a later day would tell of the future."""
    whole = pd.read_hdf(daily_pv, key="data")
    days = whole.index.get_level_values("datetime")
    first, last = market.days[4], market.days[9]
    windows = {(None, last): days <= last, (first, None): days >= first, (last, last): days == last}
    for path, kept in zip(market.cuts(list(windows)), windows.values(), strict=True):
        cut = pd.read_hdf(path, key="data")
        assert isinstance(cut, pd.DataFrame) and isinstance(cut.index, pd.MultiIndex)
        pd.testing.assert_frame_equal(cut, whole[kept], check_exact=True)
        assert set(cut.index.levels[0]) == set(days[kept])


def test_a_window_without_a_day_is_refused(market: MarketTable) -> None:
    """With what there is."""
    with pytest.raises(
        BundleError, match="no day from 2025-01-01 to its last; it has 2024-01-01 to 2024-01-26"
    ) as caught:
        market.cut(start=pd.Timestamp("2025-01-01"))
    assert caught.value.slug == "market-data-too-short"


@pytest.mark.parametrize("kind", ["missing", "other key", "other index"])
def test_files_that_are_no_market_data_are_named(jail: Jail, tmp_path: Path, kind: str) -> None:
    """With the reason, and what is wanted."""
    path = tmp_path / "other.h5"
    frame = pd.DataFrame({"a": [1.0]})
    if kind != "missing":
        frame.to_hdf(path, key="data" if kind == "other index" else "other")
    with pytest.raises(BundleError, match=r"other\.h5 cannot be used: (it|KeyError)") as caught:
        read_market(path, jail=jail)
    assert caught.value.slug == "market-data-unreadable"

"""Market data that is looked at and cut inside the jail."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import MarketTable, read_market

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
    with pytest.raises(BundleError, match=r"other\.h5( cannot be used: it|\.)") as caught:
        read_market(path, jail=jail)
    assert caught.value.slug == "market-data-unreadable"


PANEL = pd.MultiIndex.from_product(
    [pd.bdate_range("2024-01-01", periods=20), [f"SH60000{i}" for i in range(5)]],
    names=["datetime", "instrument"],
)


@pytest.fixture
def folder(tmp_path: Path, daily_pv: Path) -> Path:
    """A data folder with a second market file, a table without dates, and what is not a table."""
    shutil.copy(daily_pv, tmp_path / "daily_pv.h5")
    pd.DataFrame({"mf_net": np.arange(100.0)}, PANEL).to_parquet(tmp_path / "static_factors.parquet")
    pd.DataFrame({"field": ["mf_net"]}).to_csv(tmp_path / "schema.csv", index=False)
    (tmp_path / "README.md").write_text("What this is.")
    return tmp_path


def test_every_table_is_cut_at_the_same_day(jail: Jail, folder: Path) -> None:
    """And what has no dates is there as it is."""
    market = read_market(folder, jail=jail)
    assert market.dated == ("daily_pv.h5", "static_factors.parquet")
    (cut,) = market.folders([(market.days[4], market.days[9])])
    assert {path.name for path in cut.iterdir()} == {path.name for path in folder.iterdir()}
    for name, read in (("daily_pv.h5", pd.read_hdf), ("static_factors.parquet", pd.read_parquet)):
        days = read(cut / name).index.get_level_values("datetime")
        assert (days.min(), days.max()) == (market.days[4], market.days[9])
    assert (cut / "README.md").read_text() == "What this is."
    notices = [(notice.slug, "schema.csv" in notice.message) for notice in market.find_notices()]
    assert notices == [("data-file-undated", True)]


def test_what_is_cut_once_is_not_cut_again(jail: Jail, folder: Path) -> None:
    """Factors that read the same tables share their cuts, and a table that none reads is not cut."""
    market = read_market(folder, jail=jail)
    window = (None, market.days[9])
    (first,), (second,) = market.folders([window], ["static_factors.parquet"]), market.folders([window])
    (bare,) = market.folders([window], [])
    for name in market.dated:
        assert (first / name).resolve() == (second / name).resolve()
    assert not (bare / "static_factors.parquet").exists()
    assert (bare / "README.md").exists()


def test_another_future_keeps_shape_and_past(jail: Jail, folder: Path) -> None:
    """Every row, gap and type, and every value up to the day, in each table."""
    market = read_market(folder, jail=jail)
    altered = market.altered_after(market.days[9])
    for name, read in (("daily_pv.h5", pd.read_hdf), ("static_factors.parquet", pd.read_parquet)):
        before, after = read(folder / name).sort_index(), read(altered / name).sort_index()
        assert before.dtypes.equals(after.dtypes)
        pd.testing.assert_frame_equal(
            after.loc[: market.days[9]], before.loc[: market.days[9]], check_exact=True
        )
        later = before.loc[market.days[10] :].notna()
        assert ((after != before).loc[market.days[10] :] | ~later).mean(axis=None) > 0.9


def test_each_file_that_cannot_be_used_is_named_with_its_fault(jail: Jail, folder: Path) -> None:
    """All at once: no table at all, a damaged one, and a date that is none."""
    (folder / "a.h5").write_text("no HDF5")
    (folder / "b.parquet").write_text("no parquet")
    pd.DataFrame({"datetime": ["2024-01-01", "soon"]}).to_parquet(folder / "c.parquet")
    with pytest.raises(BundleError) as caught:
        read_market(folder, jail=jail)
    problems = caught.value.problems
    assert [problem.slug for problem in problems] == ["market-data-unreadable"] * 3
    for problem, name in zip(problems, ("a.h5", "b.parquet", "c.parquet"), strict=True):
        assert f"{folder / name} cannot be used" in problem.message
    assert "'soon'" in problems[-1].message


def test_files_that_differ_are_told(jail: Jail, folder: Path) -> None:
    """One that lacks days, one with other names of stocks, and a folder, which is not given: what and where."""
    frame = pd.DataFrame({"mf_net": np.arange(100.0)}, PANEL)
    frame[frame.index.get_level_values(0) < "2024-01-24"].to_parquet(folder / "short.parquet")
    frame.index = frame.index.set_levels([f"60000{i}.SH" for i in range(5)], level=1)
    frame.to_parquet(folder / "spelled.parquet")
    (folder / "more").mkdir()
    messages = [notice.message for notice in read_market(folder, jail=jail).find_notices()]
    assert any("more is not given to factor code: it is a folder" in message for message in messages)
    assert any(
        "short.parquet lacks 3 of the 20 trading days" in message and "2024-01-24" in message
        for message in messages
    )
    assert any(
        "spelled.parquet names stocks otherwise" in message and "600000.SH" in message for message in messages
    )


def test_a_day_that_is_there_twice_is_one_error(jail: Jail, folder: Path) -> None:
    """Naming the day and the stocks, for any table of days and stocks."""
    frame = pd.read_hdf(folder / "daily_pv.h5", key="data")
    twice = pd.concat([frame, frame.xs(pd.Timestamp("2024-01-10"), level="datetime", drop_level=False)])
    twice.to_hdf(folder / "daily_pv.h5", key="data", mode="w")
    with pytest.raises(
        BundleError, match="2024-01-10 has more than one row of SH600000, SH600001, SH600002 and 2"
    ):
        read_market(folder, jail=jail)


def test_forty_files_are_surveyed_at_once(jail: Jail, folder: Path) -> None:
    """In seconds, and none is cut that nobody reads."""
    for number in range(37):
        shutil.copy(folder / "static_factors.parquet", folder / f"more_{number}.parquet")
    began = time.monotonic()
    market = read_market(folder, jail=jail)
    (cut,) = market.folders([(None, market.days[9])], ["more_7.parquet"])
    assert time.monotonic() - began < 60
    assert len(market.tables) == 40
    assert [path.name for path in sorted(cut.glob("*.parquet"))] == ["more_7.parquet"]


def test_what_is_odd_about_many_files_is_told_once(jail: Jail, folder: Path) -> None:
    """So that the notices of forty files fit on a screen, and so do the faults."""
    frame = pd.DataFrame({"mf_net": np.arange(100.0)}, PANEL)
    short = frame[frame.index.get_level_values(0) < "2024-01-24"]
    for number in range(10):
        short.to_parquet(folder / f"short_{number}.parquet")
        (folder / f"folder_{number}").mkdir()
    notices = read_market(folder, jail=jail).find_notices()
    assert [notice.slug for notice in notices] == [
        "data-file-left-out",
        "data-file-undated",
        "data-files-differ",
    ]
    assert "short_0.parquet, short_1.parquet, short_2.parquet and 7 more files in" in notices[-1].message
    assert "each lacks 3 of the 20 trading days" in notices[-1].message
    for path in folder.glob("short_*"):
        path.write_text("no parquet")
    with pytest.raises(BundleError, match="So it is with 5 more files") as caught:
        read_market(folder, jail=jail)
    assert len(caught.value.problems) == 5


def test_what_is_no_file_is_told_as_what_it_is(jail: Jail, folder: Path) -> None:
    """A link that leads nowhere, or in a circle, and a pipe, which nobody waits for."""
    (folder / "gone.parquet").symlink_to(folder / "nowhere")
    (folder / "circle.parquet").symlink_to(folder / "circle.parquet")
    os.mkfifo(folder / "pipe.parquet")
    messages = [notice.message for notice in read_market(folder, jail=jail).find_notices()]
    assert any(
        f"circle.parquet, gone.parquet in {folder}: each is not given" in message for message in messages
    )
    assert any("pipe.parquet is not given to factor code: it is a pipe" in message for message in messages)
    (folder / "daily_pv.h5").unlink()
    os.mkfifo(folder / "daily_pv.h5")
    with pytest.raises(BundleError, match=r"daily_pv\.h5 cannot be used: it is a pipe"):
        read_market(folder, jail=jail)


def test_a_table_without_rows_is_told(jail: Jail, folder: Path) -> None:
    """In whatever form; it is not a fault of the market."""
    empty = pd.DataFrame({"mf_net": np.arange(100.0)}, PANEL).iloc[:0]
    empty.to_parquet(folder / "empty.parquet")
    empty.reset_index().to_csv(folder / "empty.csv", index=False)
    market = read_market(folder, jail=jail)
    messages = [notice.message for notice in market.find_notices()]
    assert f"empty.csv, empty.parquet in {folder}: each has no rows." in messages
    market.folders([(None, market.days[9])])


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_time_zone_dates_no_row_a_day_early(jail: Jail, folder: Path, form: str) -> None:
    """Midnight in Shanghai is the day before in UTC: cut at a day, the table would tell of the next."""
    frame = pd.DataFrame({"mf_net": np.arange(100.0)}, PANEL).reset_index()
    local = frame["datetime"].dt.tz_localize("Asia/Shanghai")

    def write(dates: pd.Series) -> None:
        table = frame.assign(datetime=dates)
        path = folder / f"side.{form}"
        table.to_parquet(path) if form == "parquet" else table.to_csv(path, index=False)

    write(local.dt.tz_convert("UTC"))
    with pytest.raises(
        BundleError, match=r"such as 2023-12-31T16:00:00\+00:00.*tz_convert\('Asia/Shanghai'\)"
    ):
        read_market(folder, jail=jail)
    write(local)
    market = read_market(folder, jail=jail)
    assert market.tables[f"side.{form}"].days.equals(market.days)  # type: ignore[union-attr]


def test_a_folder_without_prices_is_refused(jail: Jail, folder: Path) -> None:
    """With what it has."""
    (folder / "daily_pv.h5").unlink()
    with pytest.raises(BundleError, match=r"has no daily_pv\.h5; it has README\.md, schema\.csv"):
        read_market(folder, jail=jail)

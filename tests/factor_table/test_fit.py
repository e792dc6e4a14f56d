"""A table against Qlib's calendar and market: days, holes, instruments."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.checks import Findings
from rdagent_sota_patch.factor_table.fit import check_fit
from rdagent_sota_patch.factor_table.segments import Segments
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.factor_table.universe import Universe

DAYS = pd.bdate_range("2015-01-01", "2018-12-31")
NAMES = ["SH600000", "SH600001", "SZ000001", "SZ000002"]
SEGMENTS = Segments(
    train_start=date(2015, 1, 1),
    train_end=date(2016, 12, 31),
    valid_start=date(2017, 1, 1),
    valid_end=date(2017, 12, 31),
    test_start=date(2018, 1, 1),
    test_end=None,
)


def universe(known: list[str] | None = None, days: pd.DatetimeIndex = DAYS) -> Universe:
    numbers = days.to_numpy().astype("datetime64[D]").astype(np.int64)
    names = NAMES if known is None else known
    return Universe("csi300", numbers, dict.fromkeys(names, ((-9999, 99999),)), frozenset(names))


def frame(days: pd.DatetimeIndex = DAYS, names: list[str] = NAMES) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([days, names], names=["datetime", "instrument"])
    return pd.DataFrame({"A": np.arange(len(index), dtype=float), "B": 1.0}, index=index)


def check(tmp_path: Path, data: pd.DataFrame, against: Universe | None = None) -> Findings:
    data.to_parquet(tmp_path / "a.parquet")
    return check_fit(read_factor_table(tmp_path / "a.parquet"), SEGMENTS, against or universe())


def test_all_of_it(tmp_path: Path) -> None:
    """Everything covered from the end of the warm-up on: nothing to say."""
    assert check(tmp_path, frame(DAYS[60:])) == Findings()


def test_one_missing_day(tmp_path: Path) -> None:
    """From one day on a hole is mentioned, with its segment and its place."""
    findings = check(tmp_path, frame(DAYS.delete(600)))
    assert findings.errors == ()
    (notice,) = findings.notices
    assert notice.slug == "table-coverage-partial"
    day = DAYS[600].date()
    assert "covers 259 of the 260 trading days of the valid segment 2017-01-01 to 2017-12-31 (99.6 %); " in (
        notice.message
    )
    assert f"the longest gap is {day} to {day}, 1 trading days" in notice.message


def test_a_hole_of_most_of_the_training(tmp_path: Path) -> None:
    """A quarter left is a notice with the share; a twentieth an error."""
    train = DAYS[DAYS <= "2016-12-31"]
    hole = train[100:490]
    findings = check(tmp_path, frame(DAYS.difference(hole)))
    assert findings.errors == ()
    assert f"covers {len(train) - 390} of the {len(train)} trading days of the train segment" in (
        findings.notices[0].message
    )
    findings = check(tmp_path, frame(DAYS.difference(train[10:500])))
    assert [problem.slug for problem in findings.errors] == ["table-coverage"]


def test_days_of_weekends(tmp_path: Path) -> None:
    """Days that Qlib's calendar lacks are an error that names the first and its weekday."""
    days = DAYS.union([pd.Timestamp("2015-03-07"), pd.Timestamp("2015-03-08")])
    (error,) = check(tmp_path, frame(days)).errors
    assert error.slug == "table-not-trading-days"
    assert "2 of its 1045 days" in error.message
    assert "2015-03-07, a Saturday" in error.message
    assert "Keep trading days only" in error.hint


def test_every_day_a_day_early(tmp_path: Path) -> None:
    """Dates that only fit a day later are told as a dropped time zone."""
    (error,) = (
        problem
        for problem in check(tmp_path, frame(DAYS - pd.Timedelta(days=1))).errors
        if problem.slug == "table-not-trading-days"
    )
    assert "one day later" in error.hint
    assert "tz_convert('Asia/Shanghai')" in error.hint


def test_days_that_the_calendar_does_not_reach(tmp_path: Path) -> None:
    """Before and after Qlib's calendar nothing is known, and nothing is said."""
    findings = check(tmp_path, frame(pd.bdate_range("2014-01-01", "2020-01-01")))
    assert findings == Findings()


def test_no_calendar(tmp_path: Path) -> None:
    """Without one the instruments alone are judged."""
    assert check(tmp_path, frame(DAYS[:5]), universe(days=DAYS[:0])) == Findings()


def test_an_instrument_of_the_market_that_is_hardly_there(tmp_path: Path) -> None:
    """The market's instruments are counted on their own days."""
    data = frame()
    data = data[
        (data.index.get_level_values(1) != "SZ000002") | (data.index.get_level_values(0) < "2016-01-01")
    ]
    (notice,) = check(tmp_path, data).notices
    assert notice.message.endswith("it lacks more than a tenth of the days of SZ000002.")
    (notice,) = check(tmp_path, frame(names=NAMES[:3])).notices
    assert "1 of which is not in it at all" in notice.message
    market = [*NAMES, *(f"SH{number}" for number in range(601000, 601040))]
    (error,) = check(tmp_path, frame(), universe(market)).errors
    assert error.slug == "table-coverage"
    assert "covers 9.09 % of the days" in error.message


def test_a_factor_with_few_values(tmp_path: Path) -> None:
    """A factor's own values are counted by segment, NaN stored as numbers among them."""
    data = frame()
    days = data.index.get_level_values(0)
    data.loc[days.year == 2017, "A"] = np.nan
    data.loc[(days.year == 2018) & (days.month > 6), "B"] = np.nan
    findings = check(tmp_path, data)
    (error,) = findings.errors
    assert (error.slug, "valid segment" in error.message, "A (0 %)" in error.message) == (
        "table-coverage",
        True,
        True,
    )
    (notice,) = findings.notices
    assert "test segment 2018-01-01 onwards" in notice.message
    assert "B (49.8 %)" in notice.message


def test_unsorted_rows_are_counted_alike(tmp_path: Path) -> None:
    """The order of rows changes nothing."""
    data = frame()
    data.loc[data.index.get_level_values(0).year == 2017, "A"] = np.nan
    assert check(tmp_path, data.sample(frac=1, random_state=1)) == check(tmp_path, data)


@pytest.mark.parametrize(
    ("spelled", "slug"),
    [
        (["SH600000", "SH600001", "SZ000001", "sz000002"], "table-instruments-partial"),
        (["SH600000", "SH600001", "sz000001", "sz000002"], "table-instruments-partial"),
        (["SH600000", "sh600001", "sz000001", "sz000002"], "table-instruments"),
        (["600000.SH", "600001.SH", "000001.SZ", "000002.SZ"], "table-instruments"),
    ],
)
def test_unknown_instruments(tmp_path: Path, spelled: list[str], slug: str) -> None:
    """One unknown instrument is a notice, more than half are an error, each with the likely spelling."""
    findings = check(tmp_path, frame(names=spelled))
    unknown = sorted(name for name in spelled if name not in NAMES)
    (problem,) = (
        each for each in (*findings.errors, *findings.notices) if each.slug.startswith("table-instruments")
    )
    assert problem.slug == slug
    assert f"has {4 - len(unknown)} of its 4 instruments; unknown are {unknown[0]}" in problem.message
    assert ("differ in case only" in problem.hint) is ("." not in unknown[0])
    renamed = frame(names=spelled)
    code = problem.hint[problem.hint.index("df.rename") :].removesuffix(" before saving.")
    data = eval(code, {"df": renamed})
    assert set(data.index.get_level_values(1)) == set(NAMES)


def test_a_stock_that_nobody_knows(tmp_path: Path) -> None:
    """Without a proposal an example of the market is shown."""
    (notice,) = check(tmp_path, frame(names=[*NAMES, "XX"])).notices
    assert "such as SH600000" in notice.hint


def test_a_file_that_changed(tmp_path: Path) -> None:
    """A file that lost its index since is an error, not a guess."""
    path = tmp_path / "a.parquet"
    frame().to_parquet(path)
    table = read_factor_table(path)
    frame().reset_index(drop=True).to_parquet(path)
    with pytest.raises(TableError, match="table-index"):
        check_fit(table, SEGMENTS, universe())

"""Trading days and stocks, from Qlib's own text files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring import market_days
from rdagent_sota_patch.scoring.market_days import (
    Trades,
    find_day_problems,
    members_on,
    read_calendar,
    read_closes,
    read_memberships,
)

DAYS = pd.DatetimeIndex(["2024-01-02", "2024-01-03", "2024-01-05", "2024-01-08"])
PV = Path("daily_pv.h5")


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("day", "needed", "slug", "told"),
    [
        ("2024-01-05", 3, None, ""),
        ("2024-01-09", 1, "market-data-too-short", "ends on 2024-01-08"),
        ("2024-01-04", 1, "not-a-trading-day", "2024-01-03 and 2024-01-05"),
        ("2024-01-01", 1, "no-history", "begins on 2024-01-02"),
        ("2024-01-05", 4, "no-history", "the factor Gap needs 4"),
    ],
)
def test_says_why_a_day_cannot_be_computed(day: str, needed: int, slug: str | None, told: str) -> None:
    """After the data, a holiday, before it, too early in it: each is another problem, with the days to choose."""
    problems = find_day_problems(pd.Timestamp(day), DAYS, PV, needed=needed, need_of="the factor Gap")
    assert [problem.slug for problem in problems] == ([slug] if slug else [])
    assert all(told in str(problem) for problem in problems)


def test_a_gap_is_not_a_holiday() -> None:
    """A day that Qlib trades on and daily_pv.h5 lacks: the two are not of one making."""
    calendar = pd.DatetimeIndex([*DAYS, pd.Timestamp("2024-01-04")]).sort_values()
    (problem,) = find_day_problems(
        pd.Timestamp("2024-01-04"), DAYS, PV, needed=1, need_of="", calendar=calendar
    )
    assert problem.slug == "market-data-mismatch"


def test_market_data_without_a_day() -> None:
    """An empty file is told as such."""
    (problem,) = find_day_problems(DAYS[0], DAYS[:0], PV, needed=1, need_of="")
    assert problem.slug == "market-data-too-short"


def test_reads_who_was_in_the_market_when(tmp_path: Path) -> None:
    """A stock may leave and come back; both ends of a span count."""
    lines = "SH600001\t2024-01-02\t2024-01-03\nSH600000\t2024-01-03\t2024-01-05\nSH600001\t2024-01-08\t2099-01-01\n"
    write(tmp_path, "instruments/csi300.txt", lines)
    memberships = read_memberships(tmp_path, "csi300")
    members = {day: members_on(memberships, day) for day in DAYS}
    assert list(members.values()) == [
        ("SH600001",),
        ("SH600000", "SH600001"),
        ("SH600000",),
        ("SH600001",),
    ]


@pytest.mark.parametrize("name", ["sh600000", "600000.SH", "000001.sz", "AAPL"])
def test_a_stock_is_called_what_qlibs_data_call_it(tmp_path: Path, name: str) -> None:
    """Qlib takes the names of its instruments file as they are, and so they stand in features and scores."""
    write(tmp_path, "instruments/csi300.txt", f"{name}\t2024-01-02\t2024-01-05\n")
    assert members_on(read_memberships(tmp_path, "csi300"), DAYS[0]) == (name,)


@pytest.mark.parametrize("market", ["csi500", "../csi300", ""])
def test_a_market_that_qlib_does_not_have(tmp_path: Path, market: str) -> None:
    """It is an error that names those there are, and no way out of the folder."""
    write(tmp_path, "instruments/csi300.txt", "")
    with pytest.raises(BundleError, match="it has: csi300") as raised:
        read_memberships(tmp_path, market)
    assert raised.value.slug == "unknown-market"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("calendars/day.txt", "2024-01-02\nsoon\n"),
        ("calendars/day.txt", "1500-01-02\n2024-01-02\n"),
        ("instruments/csi300.txt", "SH600000\t2024-01-02\n"),
        ("instruments/csi300.txt", "SH600000\tfrom\tto\n"),
    ],
)
def test_files_that_are_not_qlibs(tmp_path: Path, name: str, text: str) -> None:
    """A file that cannot be read is named."""
    write(tmp_path, "calendars/day.txt", "2024-01-02\n")
    write(tmp_path, name, text)
    with pytest.raises(BundleError, match=Path(name).name) as raised:
        read_calendar(tmp_path)
        read_memberships(tmp_path, "csi300")
    assert raised.value.slug == "bad-market-data"


def test_no_calendar(tmp_path: Path) -> None:
    """Another folder than Qlib's is told as such."""
    with pytest.raises(BundleError, match="calendars") as raised:
        read_calendar(tmp_path)
    assert raised.value.slug == "bad-market-data"


def test_reads_closes_as_qlib_stores_them(tmp_path: Path) -> None:
    """Each file starts on a day of its own; before it, after its end and without a file there is no close."""
    for name, values in {"sh1": [0, 10, 11, 12], "sh2": [2, 20], "sh3": [0, 30]}.items():
        path = tmp_path / "features" / name / "close.day.bin"
        path.parent.mkdir(parents=True)
        np.array(values, "<f4").tofile(path)
    closes = {
        position: read_closes(tmp_path, ["SH1", "SH2", "SH3", "SH4"], position).to_dict()
        for position in range(3)
    }
    assert closes == {0: {"SH1": 10, "SH3": 30}, 1: {"SH1": 11}, 2: {"SH1": 12, "SH2": 20}}


def test_trades_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closes and volumes are read when first asked for, each once; traded is a day with a price and a volume."""
    write(tmp_path / "calendars", "day.txt", "2024-01-02\n2024-01-03\n2024-01-04\n2024-01-05\n")
    nan = np.nan
    for name, fields in {
        "sh1": {"close": [0, 10, 11, 12, 13], "volume": [0, 5, 0, 5, 5]},
        "sh2": {"close": [1, 20, nan, 22], "volume": [1, 5, 5, 5]},
        "sh3": {"close": [0, 30, 31, 32, 33]},
    }.items():
        for field, values in fields.items():
            path = tmp_path / "features" / name / f"{field}.day.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.array(values, "<f4").tofile(path)
    fields, asked = [], []
    read_field = market_days.read_field
    monkeypatch.setattr(
        market_days, "read_field", lambda *given: (fields.append(given[2]), read_field(*given))[1]
    )

    def find() -> list[str]:
        asked.append(1)
        return ["SH1", "SH2", "SH3", "SH4"]

    trades = Trades(tmp_path, find, pd.Timestamp("2024-01-04"))
    assert (fields, asked) == ([], [])
    for _ in range(3):
        assert trades.traded.T.tolist() == [
            [True, False, True],
            [False, True, False],
            [True, True, True],
            [False, False, False],
        ]
    assert list(trades.days) == list(pd.to_datetime(["2024-01-02", "2024-01-03", "2024-01-04"]))
    assert (fields, asked) == (["close", "volume"], [1])

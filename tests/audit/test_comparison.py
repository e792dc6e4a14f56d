"""Two runs' values held against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.audit.comparison import NOISE, REPEATABLE, compare
from rdagent_sota_patch.audit.panel import EMPTY, Panel, UnusableValues, read_panel

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
    """A factor may drop what it has no value for; a stock that was not listed yet is no row either."""
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


def write(path: Path, frame: pd.DataFrame) -> Path:
    frame.to_parquet(path, index=False)
    return path


def rows(**changes: object) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "datetime": DAYS[[1, 0, 1]].astype("int64"),
            "instrument": ["SH2", "SH1", "SH1"],
            "value": [3.0, 1.0, np.nan],
        }
    )
    return frame.assign(**changes)


def test_a_panel_is_read_in_any_order(tmp_path: Path) -> None:
    """Days and stocks come out sorted."""
    found = read_panel(write(tmp_path / "a.parquet", rows()))
    assert list(found.days) == list(DAYS[:2])
    assert list(found.stocks) == ["SH1", "SH2"]
    np.testing.assert_array_equal(found.values, [[1.0, np.nan], [np.nan, 3.0]])
    assert found.any
    empty = rows().iloc[:0].astype({"instrument": "string"})
    assert not read_panel(write(tmp_path / "b.parquet", empty)).any


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (rows(instrument=["SH2", "SH2", "SH2"]), "several values"),
        (rows(value=[1, 2, 3]), "not of the form"),
        (rows(more=1.0), "not of the form"),
        (rows(instrument=["SH2", None, "SH1"]), "missing day or stock"),
    ],
)
def test_what_is_no_factor_is_refused(tmp_path: Path, frame: pd.DataFrame, why: str) -> None:
    """With the reason."""
    with pytest.raises(UnusableValues, match=why):
        read_panel(write(tmp_path / "a.parquet", frame))


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """The jail's programs are not trusted to have written it."""
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UnusableValues, match="cannot be read"):
        read_panel(tmp_path / "a.parquet")

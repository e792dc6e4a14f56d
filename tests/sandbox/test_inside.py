"""What runs inside the jail, run here: which results and market data it takes for none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.sandbox import inside
from rdagent_sota_patch.sandbox.outputs import read_frame

INDEX = pd.MultiIndex.from_product(
    [pd.bdate_range("2024", periods=2), ["a", "b"]], names=["datetime", "instrument"]
)
FACTOR = pd.DataFrame({"f": np.arange(4.0)}, index=INDEX)

Leave = Callable[[Path], object]

UNFIT: dict[str, Leave] = {
    "it was not written": lambda path: None,
    "it is a link": lambda path: path.symlink_to("elsewhere.h5"),
    "it has 2 columns, not one": lambda path: FACTOR.assign(more=1).to_hdf(path, key="data"),
    r"its index is \['datetime'\], not datetime and instrument": lambda path: FACTOR.droplevel(
        "instrument"
    ).to_hdf(path, key="data"),
    "column 'f' holds object, not numbers": lambda path: FACTOR.astype(str).to_hdf(path, key="data"),
    "its datetime level is int64, not plain dates": lambda path: FACTOR.set_axis(
        INDEX.set_levels([1, 2], level=0)
    ).to_hdf(path, key="data"),
    "it cannot be read: HDF5ExtError: Unable to open": lambda path: path.write_text("no HDF5"),
}


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize("fault", UNFIT)
def test_a_result_that_is_no_factor_is_told_by_its_fault(tmp_path: Path, fault: str) -> None:
    """Everything that RD-Agent's table could not be made of."""
    UNFIT[fault](tmp_path / "result.h5")
    found = inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values"))
    assert found is not None
    assert re.match(fault, found)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool"])
def test_numbers_of_every_kind_keep_it(tmp_path: Path, dtype: str) -> None:
    """Also with rows in no order, and a day and a stock twice."""
    frame = pd.concat([FACTOR.iloc[::-1], FACTOR]).astype(dtype)
    frame.to_hdf(tmp_path / "result.h5", key="data")
    inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values"))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "values"), frame, check_exact=True)


def test_no_rows_are_a_result(tmp_path: Path) -> None:
    """What that means is for others to say."""
    FACTOR.iloc[:0].to_hdf(tmp_path / "result.h5", key="data")
    inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values"))
    frame = read_frame(tmp_path / "values")
    assert frame.empty and list(frame.columns) == ["f"]


def test_either_order_of_the_index_is_the_same_factor(tmp_path: Path) -> None:
    """RD-Agent's own is datetime first; what is judged and predicted are the values."""
    FACTOR.swaplevel().to_hdf(tmp_path / "result.h5", key="data")
    assert inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values")) is None
    pd.testing.assert_frame_equal(read_frame(tmp_path / "values"), FACTOR, check_exact=True, check_freq=False)


COPY = {"start": None, "end": "2024-01-02", "altered_after": None, "ends": ()}

DATED: dict[str, pd.DataFrame] = {
    "column of datetimes": pd.DataFrame(
        {"datetime": pd.to_datetime(["2024-01-01", "2024-01-03"]), "x": [1.0, 2.0]}
    ),
    "column of texts": pd.DataFrame({"datetime": ["2024-01-01", "2024-01-03"], "x": [1.0, 2.0]}),
    "column of short texts": pd.DataFrame({"trade_date": ["20240101", "20240103"], "x": [1.0, 2.0]}),
    "column of numbers": pd.DataFrame({"trade_date": [20240101, 20240103], "x": [1.0, 2.0]}),
    "unnamed dates": pd.DataFrame({"when": ["2024-01-01", "2024-01-03"], "x": [1.0, 2.0]}),
    "two dates, the later counts": pd.DataFrame(
        {
            "end_date": pd.to_datetime(["2023-12-31", "2023-12-31"]),
            "ann_date": pd.to_datetime(["2024-01-01", "2024-01-03"]),
            "x": [1.0, 2.0],
        }
    ),
    "index of days": pd.DataFrame({"x": [1.0, 2.0]}, index=pd.to_datetime(["2024-01-01", "2024-01-03"])),
    "time of day": pd.DataFrame(
        {"datetime": pd.to_datetime(["2024-01-02 15:00", "2024-01-03 09:30"]), "x": [1.0, 2.0]}
    ),
}


@pytest.mark.parametrize("suffix", ["parquet", "csv", "h5"])
@pytest.mark.parametrize("kind", DATED)
def test_rows_are_cut_wherever_their_dates_are(tmp_path: Path, kind: str, suffix: str) -> None:
    """In an index level or a column, as dates, texts or whole numbers; all else stays as it was."""
    frame, path = DATED[kind], tmp_path / f"table.{suffix}"
    target = tmp_path / f"cut.{suffix}"
    write = {
        "parquet": frame.to_parquet,
        "csv": frame.to_csv,
        "h5": lambda path: frame.to_hdf(path, key="any"),
    }
    write[suffix](path)
    inside.cut_file(path, path.name, [{**COPY, "target": str(target)}])
    read = {"parquet": pd.read_parquet, "csv": pd.read_csv, "h5": pd.read_hdf}[suffix]
    pd.testing.assert_frame_equal(read(target), read(path).iloc[:1], check_exact=True)


def test_texts_of_a_csv_stay_what_they_are(tmp_path: Path) -> None:
    """Leading zeros, empty fields, digits of a number and letters of any encoding."""
    text = "datetime,code,x,name\n2024-01-01,000001,0.10,\u5e73\u5b89\n2024-01-03,000002,,b\n"
    (tmp_path / "a.csv").write_bytes(text.encode("gb18030"))
    inside.cut_file(tmp_path / "a.csv", "a.csv", [{**COPY, "target": str(tmp_path / "b.csv")}])
    assert (tmp_path / "b.csv").read_bytes() == text.encode("gb18030")[: -len("2024-01-03,000002,,b\n")]


def test_a_date_that_is_none_is_named(tmp_path: Path) -> None:
    """A column called datetime in which one row holds something else: nothing says when that row is known."""
    pd.DataFrame({"datetime": ["2024-01-01", "soon"], "x": [1.0, 2.0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(inside.Unfit, match="'datetime' should hold dates, and holds 'soon'"):
        inside.survey_file(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["hdf", "parquet", "csv"])
def test_each_stock_can_end_on_a_day_of_its_own(tmp_path: Path, kind: str) -> None:
    """A stock that is not named is kept whole, and so is every row without a stock."""
    days = pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"])
    index = pd.MultiIndex.from_product([days, ["a", "b"]], names=["datetime", "instrument"])
    frame = pd.DataFrame({"x": np.arange(6.0)}, index=index)
    write = {
        "hdf": lambda path: frame.to_hdf(path, key="data"),
        "parquet": frame.to_parquet,
        "csv": frame.to_csv,
    }[kind]
    name = {"hdf": "t.h5", "parquet": "t.parquet", "csv": "t.csv"}[kind]
    write(tmp_path / name)
    target = tmp_path / f"cut-{name}"
    copy = {"target": str(target), "start": None, "end": None, "altered_after": None}
    inside.cut_file(tmp_path / name, name, [{**copy, "ends": [["a", "2024-01-02"], ["other", "2024-01-01"]]}])
    read = {"hdf": pd.read_hdf, "parquet": pd.read_parquet, "csv": pd.read_csv}[kind]
    assert read(target)["x"].tolist() == [0, 1, 2, 3, 5]


def test_texts_are_altered_to_numbers(tmp_path: Path) -> None:
    """And not to what NumPy calls them."""
    (tmp_path / "t.csv").write_text("datetime,instrument,x\n2024-01-01,a,1\n2024-01-02,a,2\n")
    copy = {"start": None, "end": None, "altered_after": "2024-01-01", "ends": ()}
    inside.cut_file(tmp_path / "t.csv", "t.csv", [{**copy, "target": str(tmp_path / "out.csv")}])
    altered = pd.read_csv(tmp_path / "out.csv")["x"]
    assert altered[0] == 1
    assert altered[1] != 2
    assert altered.dtype == "float64"

"""The fingerprint changes with the content, and with nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.fingerprint import compute_fingerprint
from rdagent_sota_patch.factor_table.reading import open_parquet
from rdagent_sota_patch.factor_table.rows import read_rows
from rdagent_sota_patch.factor_table.schema import parse_schema
from rdagent_sota_patch.factor_table.table import read_factor_table

from .frames import flatten, frames, make_frame

ON_DISK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fingerprint(frame: pd.DataFrame, folder: Path, **options: Any) -> str:
    """The fingerprint of a frame once written."""
    path = folder / "a.parquet"
    frame.to_parquet(path, engine="pyarrow", **options)
    return read_factor_table(path).fingerprint


def nest(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame under ("feature", name) columns."""
    return frame.set_axis(pd.MultiIndex.from_product([["feature"], frame.columns]), axis=1)


def test_is_the_same_tomorrow(tmp_path: Path) -> None:
    """Fingerprints stand in saved files: this one may only change together with the version in it."""
    index = pd.MultiIndex.from_tuples(
        [(pd.Timestamp("2020-01-02"), "SH600000"), (pd.Timestamp("2020-01-03"), "SZ000001")],
        names=["datetime", "instrument"],
    )
    frame = pd.DataFrame({"收益": [1.5, np.nan], "b": [-2.0, 3.0]}, index=index)
    assert (
        fingerprint(frame, tmp_path)
        == "sha256:697b2f135bfffd1178db973af8d7338b8eb2d05a850e029c98b13b0649c6058c"
    )


@ON_DISK
@given(frame=frames(), seed=st.randoms(use_true_random=False), data=st.data())
def test_layout_does_not_count(
    tmp_path: Path, frame: pd.DataFrame, seed: random.Random, data: st.DataObject
) -> None:
    """Any order of rows, columns and levels, any spelling and any encoding give the same fingerprint."""
    expected = fingerprint(nest(frame.sort_index()), tmp_path)
    rows = list(range(len(frame)))
    seed.shuffle(rows)
    columns = list(frame.columns)
    seed.shuffle(columns)
    other = frame.iloc[rows][columns]
    if data.draw(st.booleans()):
        other = other.swaplevel()
    if data.draw(st.booleans()):
        other = nest(other)
    elif data.draw(st.booleans()):
        other = other.reset_index()
    options = {
        "compression": data.draw(st.sampled_from(["snappy", "gzip", "zstd", None])),
        "row_group_size": data.draw(st.integers(1, 5)),
        "use_dictionary": data.draw(st.booleans()),
        "write_statistics": data.draw(st.booleans()),
    }
    assert fingerprint(other, tmp_path, **options) == expected


@ON_DISK
@given(frame=frames(), data=st.data())
def test_content_counts(tmp_path: Path, frame: pd.DataFrame, data: st.DataObject) -> None:
    """Another number, name, date or instrument, a row or a column less, all give another fingerprint."""
    before = fingerprint(frame, tmp_path)
    other = frame.copy()
    row = data.draw(st.integers(0, len(frame) - 1))
    column = data.draw(st.integers(0, len(frame.columns) - 1))
    match data.draw(st.sampled_from(["value", "nan", "name", "day", "instrument", "row", "column"])):
        case "value":
            old = frame.iloc[row, column]
            new = data.draw(
                st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: value != old)
            )
            other.iloc[row, column] = new
        case "nan":
            filled = frame[frame.columns[column]].notna()
            if filled.sum() < 2:
                return
            other.iloc[int(np.flatnonzero(filled)[0]), column] = np.nan
        case "name":
            other = frame.rename(columns={frame.columns[column]: frame.columns[column] + "'"})
        case "day":
            other.index = frame.index.set_levels(frame.index.levels[0] + pd.Timedelta(days=1), level=0)
        case "instrument":
            other.index = frame.index.set_levels(frame.index.levels[1] + "x", level=1)
        case "row":
            other = frame.drop(index=frame.index[row])
            if other.empty or other.isna().all().any():
                return
        case "column":
            other = frame.drop(columns=frame.columns[column])
            if other.empty:
                return
    assert fingerprint(other, tmp_path) != before


def test_swapped_cells_count(tmp_path: Path) -> None:
    """Two columns that trade their values, or two rows, are another table."""
    frame = flatten(make_frame())
    before = fingerprint(frame, tmp_path)
    assert fingerprint(frame.rename(columns={"Rev5D": "Vol20", "Vol20": "Rev5D"}), tmp_path) != before
    rows = frame.iloc[[4, 3, *range(0, 3), *range(5, 15)]].to_numpy()
    assert fingerprint(pd.DataFrame(rows, frame.index, frame.columns), tmp_path) != before


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "uint8", "Int64", "Float32"])
def test_equal_numbers_are_equal(tmp_path: Path, dtype: str) -> None:
    """Numbers that are equal as float64 count as equal, whatever type they are stored in."""
    frame = make_frame()
    frame.iloc[:, :] = np.arange(frame.size).reshape(frame.shape)
    assert fingerprint(frame.astype(dtype), tmp_path) == fingerprint(frame, tmp_path)


def test_float32_is_not_float64_rounded(tmp_path: Path) -> None:
    """A table that lost half its digits is another table."""
    frame = make_frame()
    assert fingerprint(frame.astype("float32"), tmp_path) != fingerprint(frame, tmp_path)


def test_zero_and_nan_have_one_form(tmp_path: Path) -> None:
    """-0.0 is 0.0, and NaN is NaN, stored as missing or as any of its bit patterns."""
    frame = flatten(make_frame())
    frame["Rev5D"] = 0.0
    frame.iloc[3, 0] = np.nan
    before = fingerprint(frame, tmp_path)
    values = np.full(15, -0.0)
    values[3] = np.array([0xFFF8_0000_0000_0001], dtype=np.uint64).view(np.float64)[0]
    path = tmp_path / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "Rev5D", pa.array(values, from_pandas=False)), path)
    assert pq.read_table(path)["Rev5D"].null_count == 0
    assert read_factor_table(path).fingerprint == before


def test_categories_that_no_row_uses_do_not_count(tmp_path: Path) -> None:
    """A categorical level brings only the instruments that occur."""
    frame = flatten(make_frame())
    levels = pd.Categorical(frame.index.get_level_values(1), categories=["ZZ", *frame.index.levels[1], "AA"])
    other = frame.set_index(
        pd.MultiIndex.from_arrays([frame.index.get_level_values(0), levels], names=frame.index.names)
    )
    assert fingerprint(other, tmp_path) == fingerprint(frame, tmp_path)


def test_more_rows_than_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and row groups leave no mark, sorted or not."""
    frame = make_frame(days=50, instruments=7)
    expected = fingerprint(frame, tmp_path)
    for name in ("fingerprint", "rows"):
        monkeypatch.setattr(f"rdagent_sota_patch.factor_table.{name}.BATCH_ROWS", 11)
    assert fingerprint(frame, tmp_path, row_group_size=13) == expected
    assert fingerprint(frame.sample(frac=1, random_state=1), tmp_path, row_group_size=13) == expected


def test_integers_beyond_float64_are_refused(tmp_path: Path) -> None:
    """Integers that float64 would merge have no fingerprint, rather than a shared one."""
    frame = flatten(make_frame()).assign(Rev5D=2**53 + 1)
    path = tmp_path / "a.parquet"
    frame.to_parquet(path)
    with open_parquet(path) as file:
        schema = parse_schema(file, path)
    with pytest.raises(TableError, match="Rev5D holds integers beyond"):
        compute_fingerprint(path, schema, read_rows(path, schema))

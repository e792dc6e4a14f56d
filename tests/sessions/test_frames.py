from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.sessions.frames import thaw_array, thaw_frame, thaw_index, thaw_series
from rdagent_sota_patch.sessions.inert import Inert, read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable

from .forged import Made, forge

DATA = sorted((Path(__file__).parent / "data" / "frames").glob("*.pickle"))
"""A dict of a frame, indexes and arrays, as each pandas and numpy writes it in each protocol."""

DTYPES = ["f2", "f4", "f8", ">f8", "i1", "i2", "i4", "i8", "u1", "u8", "?", "U3", "M8[ns]", "M8[s]"]


def inert(value: object, protocol: int = 4) -> Any:
    return read_inert(pickle.dumps(value, protocol=protocol))


@pytest.fixture
def rows() -> pd.MultiIndex:
    days = pd.DatetimeIndex(["2024-01-02", "2024-01-03"])
    return pd.MultiIndex.from_product([days, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])


@pytest.mark.parametrize("path", DATA, ids=lambda path: path.stem)
def test_what_every_pandas_writes_is_read(path: Path, rows: pd.MultiIndex) -> None:
    assert len(DATA) == 4
    read = read_inert(path.read_bytes())
    frame = thaw_frame(read["frame"])
    assert list(frame.columns) == ["score"]
    np.testing.assert_array_equal(frame["score"], np.array([0.1, 0.2, np.nan, -3], dtype="f4"), strict=True)
    assert list(frame.index.names) == ["datetime", "instrument"]
    assert frame.index.tolist() == rows.tolist()
    assert thaw_index(read["columns"]).tolist() == [("feature", "A"), ("feature", "B")]
    assert thaw_index(read["flat"]).tolist() == ["A", "B"]
    np.testing.assert_array_equal(thaw_array(read["array"]), np.arange(6.0).reshape(2, 3))
    assert thaw_array(read["names"]).tolist() == ["RESI5", "KLEN"]
    assert thaw_array(read["objects"]).tolist() == ["a", "b"]


def test_levels_have_no_levels() -> None:
    """No pandas writes such an index; a thousand deep, it ended in a RecursionError."""
    index = pd.MultiIndex.from_tuples([("feature", "x"), ("label", "y")])
    value = inert(index)
    for _ in range(2000):
        outer = inert(index)
        outer.arguments[1]["levels"][0] = value
        value = outer
    with pytest.raises(Unthawable, match="levels have levels"):
        thaw_index(value)


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_to_the_bit(dtype: str, order: Any, protocol: int) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3).astype(dtype), order=order)
    thawed = thaw_array(inert(array, protocol))
    assert thawed.dtype == array.dtype
    np.testing.assert_array_equal(thawed, array)
    assert thawed.flags.writeable


def test_nan_keeps_its_payload() -> None:
    array = np.array([0x7FF8000000000001, 0xFFF0000000000000], dtype="u8").view("f8")
    assert thaw_array(inert(array)).view("u8").tolist() == array.view("u8").tolist()


def test_a_frame_keeps_the_order_and_type_of_its_columns(rows: pd.MultiIndex) -> None:
    frame = pd.DataFrame(
        {"b": np.arange(4.0), "a": np.arange(4, dtype="f4"), "c": np.arange(4.0) / 3, "n": [1, 2, 3, 4]},
        index=rows,
    )
    pd.testing.assert_frame_equal(thaw_frame(inert(frame)), frame, check_exact=True)


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(2, 9, 3, name="n"),
        pd.Index([3, 1, 2], name="number"),
        pd.DatetimeIndex(["2024-01-02"], name="datetime"),
        pd.MultiIndex.from_tuples([("feature", "x"), ("label", "y")]),
    ],
    ids=["range", "numbers", "days", "levels"],
)
def test_indexes_come_back(index: pd.Index) -> None:
    pd.testing.assert_index_equal(thaw_index(inert(index)), index, exact=True)


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"text": ["a"]}),
        pd.DataFrame({"day": pd.to_datetime(["2024-01-02"])}),
        pd.DataFrame({"whole": pd.array([1, None], dtype="Int64")}),
        pd.Series([1.0]),
        {"score": [1.0]},
        7,
    ],
    ids=["text", "days", "extension", "series", "dict", "number"],
)
def test_other_frames_are_refused(value: object) -> None:
    with pytest.raises(Unthawable):
        thaw_frame(inert(value))


@pytest.mark.parametrize(
    "value", [np.array([1j]), np.array([(1, 2.0)], dtype="i4,f8"), np.array([b"ab"]), "text"]
)
def test_other_arrays_are_refused(value: object) -> None:
    with pytest.raises(Unthawable):
        thaw_array(inert(value))


def _damage_length(array: Inert) -> None:
    version, (length,), dtype, fortran, data = array.state
    array.state = (version, (length + 1,), dtype, fortran, data)


def _damage_shape(array: Inert) -> None:
    version, _, dtype, fortran, data = array.state
    array.state = (version, (-1, -3), dtype, fortran, data)


def _damage_bytes(array: Inert) -> None:
    array.state = (*array.state[:4], "text")


@pytest.mark.parametrize("damage", [_damage_length, _damage_shape, _damage_bytes])
def test_bytes_that_do_not_fit_are_refused(damage: Callable[[Inert], None]) -> None:
    array = inert(np.arange(3.0))
    damage(array)
    with pytest.raises(Unthawable):
        thaw_array(array)


def test_codes_beyond_their_level_are_refused(rows: pd.MultiIndex) -> None:
    index = inert(rows)
    index.arguments[1]["levels"].reverse()
    index.arguments[1]["codes"][0] = inert(np.array([0, 1, 2, 9], dtype="i1"))
    with pytest.raises(Unthawable, match="damaged index"):
        thaw_index(index)


def test_a_column_without_a_block_is_refused(rows: pd.MultiIndex) -> None:
    frame = inert(pd.DataFrame({"a": np.arange(4.0), "b": np.arange(4)}, index=rows))
    manager = frame.attributes["_mgr"]
    manager.arguments = (manager.arguments[0][:1], manager.arguments[1])
    with pytest.raises(Unthawable, match="1 of 2 columns"):
        thaw_frame(frame)


def test_only_the_exact_classes_have_rules() -> None:
    """A class of the same name from elsewhere, or pandas' own reader of files, is not a frame."""
    for module, name in [("evil.core.frame", "DataFrame"), ("pandas", "read_pickle"), ("os", "system")]:
        with pytest.raises(Unthawable):
            thaw_frame(read_inert(forge(Made(module, name, ("touch here",)))))
        with pytest.raises(Unthawable):
            thaw_index(read_inert(forge(Made(module, name, ("touch here", {"data": [1]})))))


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_series_comes_back(protocol: int) -> None:
    """Its numbers and its days, as a back-test's daily IC."""
    series = pd.Series([0.5, np.nan], index=pd.DatetimeIndex(["2024-01-02", "2024-01-03"], name="datetime"))
    read = thaw_series(inert(series, protocol))
    pd.testing.assert_series_equal(read, series)
    with pytest.raises(Unthawable, match="a Series in an unknown form"):
        thaw_series(inert(series.to_frame(), protocol))
    with pytest.raises(Unthawable, match="a Series of object"):
        thaw_series(inert(pd.Series(["a"]), protocol))

"""Tables in other layouts, rewritten as RD-Agent would have written them."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factor_table import canonical
from rdagent_sota_patch.factor_table.canonical import write_canonical
from rdagent_sota_patch.factor_table.table import read_factor_table

from .frames import flatten, frames, make_frame


def nest(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as RD-Agent would write it."""
    frame = frame.sort_index()
    return frame.set_axis(pd.MultiIndex.from_product([["feature"], frame.columns]), axis=1)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=frames(), swapped=st.booleans(), group=st.integers(1, 12))
def test_pandas_reads_back_the_same_values(
    tmp_path: Path, frame: pd.DataFrame, swapped: bool, group: int
) -> None:
    """Any frame comes back equal to the last bit, in RD-Agent's layout, and with its fingerprint."""
    source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
    (frame.swaplevel() if swapped else frame).to_parquet(source, row_group_size=group)
    written = write_canonical(source, target)
    read = pd.read_parquet(target, engine="pyarrow")
    pd.testing.assert_frame_equal(read, nest(frame), check_exact=True, check_freq=False)
    assert read.index.levels[0].dtype == "datetime64[ns]"
    assert written == read_factor_table(target)
    assert written.canonical
    assert written.fingerprint == read_factor_table(source).fingerprint


def test_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is longer than a row group is put together in the right order."""
    monkeypatch.setattr(canonical, "_group_rows", lambda _: 7)
    frame = make_frame(days=30, instruments=4)
    flatten(frame).sample(frac=1, random_state=0).to_parquet(tmp_path / "source.parquet")
    write_canonical(tmp_path / "source.parquet", tmp_path / "target.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "target.parquet"), frame, check_freq=False)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ("float32", "float32"),
        ("int64", "int64"),
        ("uint8", "uint8"),
        ("float16", "float32"),
        ("Int64", "int64"),
    ],
)
def test_number_types_stay(tmp_path: Path, stored: str, read: str) -> None:
    """Numbers keep their width; types that Qlib cannot take become the nearest that it can."""
    frame = make_frame().fillna(1.0).abs().round().astype(stored)
    flatten(frame).to_parquet(tmp_path / "source.parquet")
    write_canonical(tmp_path / "source.parquet", tmp_path / "target.parquet")
    result = pd.read_parquet(tmp_path / "target.parquet")
    assert set(result.dtypes.astype(str)) == {read}
    pd.testing.assert_frame_equal(result, frame.astype(read), check_freq=False)


def test_missing_integers_become_nan(tmp_path: Path) -> None:
    """A gap among integers is NaN, as pandas reads it."""
    frame = flatten(make_frame()).round().astype("Int64")
    frame.to_parquet(tmp_path / "source.parquet")
    write_canonical(tmp_path / "source.parquet", tmp_path / "target.parquet")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "target.parquet"),
        nest(frame.astype({"Rev5D": "float64", "Vol20": "int64"})),
        check_freq=False,
    )


def test_what_rdagent_wrote_is_copied(tmp_path: Path) -> None:
    """A canonical table keeps every byte."""
    source, target = tmp_path / "原 表.parquet", tmp_path / "copy.parquet"
    make_frame().to_parquet(source)
    assert write_canonical(source, target).path == target
    assert target.read_bytes() == source.read_bytes()


def test_qlib_can_select_from_it(tmp_path: Path) -> None:
    """StaticDataLoader's selection by instruments and dates works on the result."""
    frame = make_frame(days=10)
    flatten(frame).swaplevel().iloc[::-1].to_parquet(tmp_path / "source.parquet")
    write_canonical(tmp_path / "source.parquet", tmp_path / "target.parquet")
    read = pd.read_parquet(tmp_path / "target.parquet", engine="pyarrow")
    chosen = read.loc(axis=0)[:, ["SH600000", "SH600002"]].loc["2015-01-03":"2015-01-05"]
    assert chosen.shape == (6, 2)
    assert list(chosen.columns) == [("feature", "Rev5D"), ("feature", "Vol20")]


def test_in_place(tmp_path: Path) -> None:
    """A table may take its own place."""
    path = tmp_path / "a.parquet"
    flatten(make_frame()).to_parquet(path)
    before = read_factor_table(path)
    assert write_canonical(path, path).fingerprint == before.fingerprint
    assert read_factor_table(path).canonical


def test_a_bad_source_leaves_the_target(tmp_path: Path) -> None:
    """An unusable source costs nothing that was there."""
    target = tmp_path / "target.parquet"
    target.write_text("old")
    (tmp_path / "source.parquet").write_text("no parquet")
    with pytest.raises(TableError, match="table-unreadable"):
        write_canonical(tmp_path / "source.parquet", target)
    assert target.read_text() == "old"


@pytest.mark.parametrize("place", ["missing/target.parquet", "source.parquet/target.parquet"])
def test_places_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    """A target without a folder is refused."""
    source = tmp_path / "source.parquet"
    flatten(make_frame()).to_parquet(source)
    with pytest.raises(SotaError, match="cannot-write"):
        write_canonical(source, tmp_path / place)
    assert list(tmp_path.iterdir()) == [source]


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the scratch file the target stays as it was."""
    source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
    flatten(make_frame()).to_parquet(source)
    target.write_text("old")

    def refuse(**_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(SotaError, match="cannot-write"):
        write_canonical(source, target)
    assert target.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [source, target]


def test_a_source_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is compared with what was read, and thrown away when it differs."""
    source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
    frame = flatten(make_frame())
    frame.to_parquet(source)
    original = canonical.read_rows

    def change_then_read(*arguments: Any) -> Any:
        (frame + 1).to_parquet(source)
        return original(*arguments)

    monkeypatch.setattr(canonical, "read_rows", change_then_read)
    monkeypatch.setattr(canonical, "iterate_column", _changed(canonical.iterate_column))
    with pytest.raises(TableError, match="table-changed"):
        write_canonical(source, target)
    assert not target.exists()


def _changed(iterate: Any) -> Any:
    def changed(*arguments: Any) -> Any:
        import pyarrow as pa

        for array in iterate(*arguments):
            yield pa.array(np.nan_to_num(array.to_numpy(zero_copy_only=False)) + 1)

    return changed


def test_row_groups_are_no_smaller_than_needed(tmp_path: Path) -> None:
    """Of two factors, some hundred thousand rows go into one row group: readers go by groups."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2015-01-01", periods=500), [f"SH{number:06}" for number in range(100)]],
        names=["datetime", "instrument"],
    )
    pd.DataFrame({"b": 1.0, "a": 2.0}, index).to_parquet(tmp_path / "source.parquet")
    write_canonical(tmp_path / "source.parquet", tmp_path / "target.parquet")
    assert pq.read_metadata(tmp_path / "target.parquet").num_row_groups == 1

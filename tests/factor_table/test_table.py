"""Reading factor tables: what is accepted, and everything that is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table, unchanged

from .frames import flatten, make_frame


def write(frame: pd.DataFrame, path: Path, **options: Any) -> Path:
    """Write as RD-Agent does."""
    frame.to_parquet(path, engine="pyarrow", **options)
    return path


def slugs(path: Path) -> list[str]:
    """The slugs of what is wrong with a table."""
    with pytest.raises(TableError) as caught:
        read_factor_table(path)
    assert all(str(path) in problem.message and problem.hint for problem in caught.value.problems)
    return [problem.slug for problem in caught.value.problems]


def test_reads_what_rdagent_writes(tmp_path: Path) -> None:
    """The table's description is that of the frame, in column order."""
    path = write(make_frame(days=5, instruments=3, names=("Vol20", "Rev5D")), tmp_path / "因子 表.parquet")
    table = read_factor_table(path)
    assert table == FactorTable(
        path=path,
        names=("Vol20", "Rev5D"),
        rows=15,
        start=date(2015, 1, 1),
        end=date(2015, 1, 5),
        instruments=3,
        fingerprint=table.fingerprint,
        canonical=True,
        stat=(path.stat().st_size, path.stat().st_mtime_ns),
    )


LAYOUTS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "plain": flatten,
    "swapped": lambda frame: frame.swaplevel().sort_index(),
    "unsorted": lambda frame: frame.iloc[::-1],
    "index as columns": lambda frame: flatten(frame).reset_index(),
    "nullable": lambda frame: frame.astype("Float64"),
    "half": lambda frame: frame.astype("float16"),
    "microseconds": lambda frame: set_level(frame, 0, frame.index.levels[0].as_unit("us")),
    "dates": lambda frame: set_level(frame, 0, frame.index.levels[0].date),
    "categories": lambda frame: set_level(frame, 1, frame.index.levels[1].astype("category")),
}


def set_level(frame: pd.DataFrame, level: int, values: Any) -> pd.DataFrame:
    """Store a level in another type."""
    return frame.set_index(frame.index.set_levels(values, level=level))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_read_and_not_called_canonical(tmp_path: Path, layout: str) -> None:
    """Layouts that Qlib cannot take as they are come with the same description."""
    frame = make_frame()
    table = read_factor_table(write(LAYOUTS[layout](frame), tmp_path / "a.parquet"))
    assert not table.canonical
    assert (table.names, table.rows, table.instruments) == (("Rev5D", "Vol20"), 15, 3)
    assert (table.start, table.end) == (date(2015, 1, 1), date(2015, 1, 5))


@pytest.mark.parametrize("dtype", ["float32", "int64", "int8", "uint16"])
def test_number_types_that_qlib_takes(tmp_path: Path, dtype: str) -> None:
    """Narrow and whole numbers need no rewriting."""
    frame = make_frame().fillna(0.0).abs().astype(dtype)
    assert read_factor_table(write(frame, tmp_path / "a.parquet")).canonical


def test_without_pandas_metadata(tmp_path: Path) -> None:
    """A file of another tool is read by its column names alone."""
    path = write(make_frame(), tmp_path / "a.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    table = read_factor_table(path)
    assert table.names == ("Rev5D", "Vol20")
    assert not table.canonical


@pytest.mark.parametrize("name", ["a.b", "(close - open)", "(1, 2)", "', 'x", "['q']", "收益 率", "a\nb"])
@pytest.mark.parametrize("plain", [True, False])
def test_odd_names_are_names(tmp_path: Path, name: str, plain: bool) -> None:
    """Names that look like paths or Python are kept as they are; ``a`` beside ``a.b`` is not mixed up."""
    frame = make_frame(names=("a", name))
    path = write(flatten(frame) if plain else frame, tmp_path / "a.parquet")
    assert read_factor_table(path).names == ("a", name)


def break_rows(values: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Put ``values`` in the place of the instruments."""
    return lambda frame: frame.set_index(
        pd.MultiIndex.from_arrays([frame.index.get_level_values(0), values], names=frame.index.names)
    )


def break_days(change: Callable[[pd.Index], Any]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Change the dates."""
    return lambda frame: frame.set_index(
        pd.MultiIndex.from_arrays(
            [change(frame.index.get_level_values(0)), frame.index.get_level_values(1)],
            names=frame.index.names,
        )
    )


def set_column(value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Fill the first factor."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        frame[("feature", "Rev5D")] = value
        return frame

    return change


def set_cell(value: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Change one number."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.copy()
        frame.iloc[2, 0] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frame: frame.rename_axis(["date", "instrument"]), ["table-index"]),
        (lambda frame: frame.rename_axis([None, None]), ["table-index"]),
        (lambda frame: frame.reset_index(drop=True), ["table-index"]),
        (lambda frame: frame.droplevel(1), ["table-index"]),
        (lambda frame: frame.assign(x=1.0).set_index("x", append=True), ["table-index"]),
        (break_rows(np.arange(15)), ["table-index"]),
        (break_rows([None] + ["SH600000"] * 14), ["table-index"]),
        (break_rows([""] + ["SH600000"] * 14), ["table-index"]),
        (break_days(lambda days: days.strftime("%Y-%m-%d")), ["table-index"]),
        (break_days(lambda days: days.tz_localize("Asia/Shanghai")), ["table-index"]),
        (break_days(lambda days: days.where(days > days[0])), ["table-index"]),
        (break_days(lambda days: [pd.Timestamp("9000-01-01").as_unit("s")] * len(days)), ["table-index"]),
        (break_days(lambda days: days + pd.Timedelta("15h")), ["table-intraday"]),
        (break_days(lambda days: days[:1].append(days[1:] + pd.Timedelta("1ns"))), ["table-intraday"]),
        (lambda frame: pd.concat([frame, frame.iloc[3:5]]), ["table-duplicate-rows"]),
        (lambda frame: frame.iloc[[0, 0, 1, 2]], ["table-duplicate-rows"]),
        (set_column("text"), ["table-not-numeric"]),
        (set_column(True), ["table-not-numeric"]),
        (set_column(pd.Timestamp("2020-01-01")), ["table-not-numeric"]),
        (set_column(2**53 + 1), ["table-not-numeric"]),
        (set_column(np.nan), ["table-all-nan"]),
        (set_cell(np.inf), ["table-infinite"]),
        (set_cell(-np.inf), ["table-infinite"]),
        (lambda frame: frame.iloc[:0], ["table-empty"]),
        (lambda frame: frame.iloc[:, :0], ["table-empty"]),
        (lambda frame: frame.rename(columns={"Rev5D": ""}), ["table-column-names"]),
        (lambda frame: frame.rename(columns={"Rev5D": "  "}), ["table-column-names"]),
        (lambda frame: frame.rename(columns={"Rev5D": "Rev\x005D"}), ["table-column-names"]),
        (lambda frame: frame.rename(columns={"feature": "label"}), ["table-column-names"]),
        (lambda frame: pd.concat({"x": frame}, axis=1), ["table-column-names"]),
    ],
)
def test_unusable_tables(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], expected: list[str]
) -> None:
    """Each fault has its own slug, and no fault is reported as two."""
    path = write(change(make_frame()), tmp_path / "坏 表.parquet")
    assert sorted(set(slugs(path))) == expected


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    """Faults of columns, numbers and rows come in one error."""
    frame = make_frame(names=("a", "b", "c", "d"))
    frame[("feature", "a")] = "text"
    frame[("feature", "b")] = np.nan
    frame.iloc[0, 2] = np.inf
    path = write(pd.concat([frame, frame]), tmp_path / "a.parquet")
    assert slugs(path) == ["table-not-numeric", "table-all-nan", "table-infinite", "table-duplicate-rows"]


def test_the_message_names_columns_and_rows(tmp_path: Path) -> None:
    """What is to be corrected is named."""
    frame = make_frame(names=("a", "b"))
    frame[("feature", "b")] = "text"
    path = write(pd.concat([frame, frame.iloc[3:4]]), tmp_path / "a.parquet")
    with pytest.raises(TableError) as caught:
        read_factor_table(path)
    assert "no numbers in b." in str(caught.value)
    assert "(2015-01-02, SH600000)" in str(caught.value)


def test_duplicate_columns(tmp_path: Path) -> None:
    """Two columns of one name are refused, also when they are spelled in two ways."""
    path = write(flatten(make_frame()), tmp_path / "a.parquet")
    table = pq.read_table(path)
    for name in ("Rev5D", "('feature', 'Rev5D')"):
        pq.write_table(table.append_column(name, table["Rev5D"]), path)
        assert slugs(path) == ["table-duplicate-columns"]


def statistics_of(path: Path) -> Any:
    """The footer's statistics of the first column."""
    return pq.read_metadata(path).row_group(0).column(0).statistics


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.nan, "table-all-nan"), (np.inf, "table-infinite"), (-np.inf, "table-infinite")],
)
@pytest.mark.parametrize("statistics", [True, False])
def test_numbers_are_read_where_statistics_do_not_tell(
    tmp_path: Path, value: float, expected: str, statistics: bool
) -> None:
    """NaN that is not stored as missing, and files without statistics, are found as well."""
    path = write(flatten(make_frame()), tmp_path / "a.parquet")
    table = pq.read_table(path)
    column = pa.array(np.full(15, value), from_pandas=False)
    pq.write_table(table.set_column(0, "Rev5D", column), path, write_statistics=statistics)
    assert (statistics_of(path) is not None) == statistics
    assert slugs(path) == [expected]


def test_a_sound_table_without_statistics(tmp_path: Path) -> None:
    """Statistics are a short cut, not a condition."""
    path = write(make_frame(), tmp_path / "a.parquet", write_statistics=False)
    assert read_factor_table(path).canonical


def test_a_missing_file(tmp_path: Path) -> None:
    """The message has the words that users look for."""
    with pytest.raises(TableError, match=r"\[table-not-found\] SOTA factors file not found: ") as caught:
        read_factor_table(tmp_path / "没有.parquet")
    assert caught.value.problems[0].hint


@pytest.mark.parametrize("keep", [0, 3, 100, 0.5, -1, -9])
def test_truncated_files(tmp_path: Path, keep: float) -> None:
    """A file that is cut off anywhere is unreadable, never half a table."""
    path = write(make_frame(), tmp_path / "a.parquet")
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert slugs(path) == ["table-unreadable"]


def test_damaged_data(tmp_path: Path) -> None:
    """A whole footer over damaged pages is unreadable."""
    path = write(make_frame(days=300), tmp_path / "a.parquet")
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)
    assert slugs(path) == ["table-unreadable"]


def test_damaged_pandas_metadata(tmp_path: Path) -> None:
    """Metadata that is not JSON, or not of pandas' form, is unreadable."""
    path = write(make_frame(), tmp_path / "a.parquet")
    table = pq.read_table(path)
    for damaged in (b"{", b'{"index_columns": 3}', json.dumps({"columns": [{"name": ["x"]}]}).encode()):
        pq.write_table(table.replace_schema_metadata({b"pandas": damaged}), path)
        assert slugs(path) == ["table-unreadable"]


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    """Other formats, and folders, are unreadable."""
    make_frame().to_csv(tmp_path / "a.parquet")
    assert slugs(tmp_path / "a.parquet") == ["table-unreadable"]
    assert slugs(tmp_path) == ["table-unreadable"]


def test_names_are_never_run(tmp_path: Path) -> None:
    """A column name is data: code in it stays text, and a monstrous one does no harm."""
    path = tmp_path / "a.parquet"
    names = ["(__import__('os').abort(), 'x')", "(" * 5000 + ")" * 5000]
    table = pq.read_table(write(flatten(make_frame()), path)).rename_columns(
        [*names, "datetime", "instrument"]
    )
    pq.write_table(table, path)
    assert read_factor_table(path).names == tuple(names)


def test_unchanged(tmp_path: Path) -> None:
    """A file that was written again, or is gone, is not the one that was read."""
    path = write(make_frame(), tmp_path / "a.parquet")
    table = read_factor_table(path)
    assert unchanged(table)
    os.utime(path, ns=(0, table.stat[1] + 1))
    assert not unchanged(table)
    path.unlink()
    assert not unchanged(table)


def test_a_change_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is being written at the same time is not trusted."""
    path = write(make_frame(), tmp_path / "a.parquet")

    def touch(*_: object) -> str:
        os.utime(path, ns=(0, 0))
        return "sha256:0"

    monkeypatch.setattr("rdagent_sota_patch.factor_table.table.compute_fingerprint", touch)
    assert slugs(path) == ["table-changed"]


def test_tables_are_values(tmp_path: Path) -> None:
    """A table is frozen, hashable, and equal to another reading of the same file."""
    table = read_factor_table(write(make_frame(), tmp_path / "a.parquet"))
    assert table == read_factor_table(table.path)
    assert len({table, replace(table)}) == 1


EACH_BYTE = """
import sys
from contextlib import suppress
from pathlib import Path
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.table import read_factor_table
path = Path(sys.argv[1])
whole = path.read_bytes()
footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for place in range(footer, len(whole)):
    changed = bytearray(whole)
    changed[place] ^= 1 << place % 8
    path.write_bytes(changed)
    for read in (read_names, read_factor_table):
        with suppress(SotaError):
            read(path)
"""


def test_a_footer_with_any_byte_changed(tmp_path: Path) -> None:
    """An error or a table, and never the end of the process: pyarrow aborts at entries that contradict each other."""
    path = tmp_path / "a.parquet"
    write(make_frame(days=3, instruments=2, names=("A",)), path)
    done = subprocess.run(
        [sys.executable, "-c", EACH_BYTE, path], check=False, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("number", [2**53, 2**53 + 1, -(2**53), -(2**53) - 1])
def test_integers_that_float64_can_tell_apart(tmp_path: Path, number: int) -> None:
    """Up to 2**53 they can be features, and one further they cannot, on either side of 0."""
    path = write(flatten(make_frame()).assign(Whole=number), tmp_path / "a.parquet")
    if abs(number) <= 2**53:
        assert "Whole" in read_factor_table(path).names
    else:
        assert slugs(path) == ["table-not-numeric"]


@pytest.mark.parametrize("promised", [2, 4])
def test_a_footer_that_counts_other_rows_than_its_groups(tmp_path: Path, promised: int) -> None:
    """More or fewer: it is damaged."""
    path = write(flatten(make_frame(days=3, instruments=1)), tmp_path / "a.parquet")
    content = path.read_bytes()
    # Thrift's compact protocol: the third field is 3 as a zigzag number, and a list of row groups follows.
    assert content.count(b"\x16\x06\x19") == 1
    path.write_bytes(content.replace(b"\x16\x06\x19", bytes([0x16, 2 * promised, 0x19])))
    with pytest.raises(
        TableError, match=f"its footer promises {promised} rows; its row groups have 3"
    ) as caught:
        read_factor_table(path)
    assert caught.value.slug == "table-unreadable"

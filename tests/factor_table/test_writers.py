"""Tables as Polars, DuckDB, Arrow and pandas write them today, and the advice for those that are refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.canonical import write_canonical
from rdagent_sota_patch.factor_table.sources import find_source
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.settings import Settings

DAYS = [date(2015, 1, 5), date(2015, 1, 6)]
NAMES = ["SH600000", "SZ000001"]
COLUMNS: dict[str, list[Any]] = {
    "datetime": [day for day in DAYS for _ in NAMES],
    "instrument": NAMES * 2,
    "A": [1.5, None, -0.25, 4.0],
    "B": [1, 2, 3, 4],
}
VALUES = [[1.5, 1.0], [np.nan, 2.0], [-0.25, 3.0], [4.0, 4.0]]


def polars(**types: Any) -> Callable[[Path], None]:
    return lambda path: pl.DataFrame(COLUMNS).cast(types).write_parquet(path)


def polars_sink(path: Path) -> None:
    pl.LazyFrame(COLUMNS).with_columns(pl.col("A").fill_null(float("nan"))).sink_parquet(path)


def duck(columns: str, options: str = "") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with duckdb.connect() as connection:
            connection.register("given", pa.table(COLUMNS))
            connection.execute("CREATE TYPE stock AS ENUM ('SH600000', 'SZ000001')")
            connection.execute(
                f"COPY (SELECT {columns}, A, B FROM given) TO '{path}' (FORMAT parquet{options})"
            )

    return write


def arrow(kind: Any, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        table = pa.table(COLUMNS)
        pq.write_table(table.set_column(1, "instrument", table["instrument"].cast(kind)), path, **options)

    return write


def pandas(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        frame = pd.DataFrame(COLUMNS).astype({"datetime": "datetime64[ns]"})
        change(frame.set_index(["datetime", "instrument"])).to_parquet(path)

    return write


WRITERS = {
    "polars": polars(),
    "polars, sink": polars_sink,
    "polars, categories": polars(instrument=pl.Categorical),
    "polars, enum": polars(instrument=pl.Enum(NAMES)),
    "polars, microseconds": polars(datetime=pl.Datetime("us")),
    "polars, milliseconds": polars(datetime=pl.Datetime("ms")),
    "polars, float32": polars(A=pl.Float32),
    "duckdb": duck("datetime, instrument"),
    "duckdb, timestamps": duck("datetime::TIMESTAMP AS datetime, instrument"),
    "duckdb, nanoseconds": duck("datetime::TIMESTAMP_NS AS datetime, instrument"),
    "duckdb, enum": duck("datetime, instrument::stock AS instrument"),
    "duckdb, version 2": duck("datetime, instrument", ", PARQUET_VERSION v2, COMPRESSION zstd"),
    "arrow": arrow(pa.string()),
    "arrow, large": arrow(pa.large_string()),
    "arrow, view": arrow(pa.string_view()),
    "arrow, view, no dictionary": arrow(pa.string_view(), use_dictionary=False),
    "arrow, dictionary": arrow(pa.dictionary(pa.int32(), pa.string())),
    "arrow, small dictionary of large": arrow(pa.dictionary(pa.int8(), pa.large_string())),
    "arrow, delta": arrow(
        pa.string(), use_dictionary=False, column_encoding={"instrument": "DELTA_BYTE_ARRAY"}
    ),
    "arrow, version 1": arrow(pa.string(), version="1.0", compression="gzip"),
    "pandas": pandas(lambda frame: frame),
    "pandas, arrow types": pandas(lambda frame: frame.convert_dtypes(dtype_backend="pyarrow")),
    "pandas, nullable": pandas(lambda frame: frame.convert_dtypes()),
    "pandas, categories": pandas(
        lambda frame: (
            frame.reset_index().astype({"instrument": "category"}).set_index(list(frame.index.names))
        )
    ),
    "pandas, arrow strings": pandas(
        lambda frame: (
            frame.reset_index().astype({"instrument": "string[pyarrow]"}).set_index(list(frame.index.names))
        )
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer(tmp_path: Path, writer: str) -> None:
    """The same table by each of them: same fingerprint, and the right values where RD-Agent reads them."""
    path = tmp_path / "table.parquet"
    WRITERS[writer](path)
    pandas(lambda frame: frame)(tmp_path / "plain.parquet")
    table = read_factor_table(path)
    assert table.fingerprint == read_factor_table(tmp_path / "plain.parquet").fingerprint
    assert (table.names, table.rows, table.start, table.end) == (("A", "B"), 4, *DAYS)
    write_canonical(path, tmp_path / "canonical.parquet")
    frame = pd.read_parquet(tmp_path / "canonical.parquet")
    assert list(frame.index) == [(pd.Timestamp(day), name) for day in DAYS for name in NAMES]
    assert list(frame.columns) == [("feature", "A"), ("feature", "B")]
    np.testing.assert_array_equal(frame.to_numpy(dtype=float), VALUES)


def problem_of(path: Path) -> Any:
    with pytest.raises(TableError) as caught:
        read_factor_table(path)
    (problem,) = caught.value.problems
    return problem


def shanghai(path: Path, *, as_index: bool, swapped: bool = False) -> None:
    """Midnights of Shanghai as moments, such as DuckDB's TIMESTAMPTZ: 16:00 UTC of the day before."""
    zone = timezone(timedelta(hours=8))
    moments = [datetime(day.year, day.month, day.day, tzinfo=zone) for day in DAYS for _ in NAMES]
    frame = pd.DataFrame({**COLUMNS, "datetime": pd.to_datetime(moments, utc=True)})
    if as_index:
        frame = frame.set_index(["instrument", "datetime"] if swapped else ["datetime", "instrument"])
    frame.to_parquet(path, index=as_index)


@pytest.mark.parametrize(("as_index", "swapped"), [(False, False), (True, False), (True, True)])
def test_the_advice_for_a_time_zone(tmp_path: Path, as_index: bool, swapped: bool) -> None:
    """Done as it says, each row keeps its own day."""
    path = tmp_path / "table.parquet"
    shanghai(path, as_index=as_index, swapped=swapped)
    problem = problem_of(path)
    assert problem.slug == "table-index"
    frame = pd.read_parquet(path)
    exec(problem.hint.partition(": ")[2], {"df": frame})
    frame.to_parquet(path)
    table = read_factor_table(path)
    assert (table.start, table.end) == (DAYS[0], DAYS[1])


def test_the_advice_for_a_zone_that_was_dropped(tmp_path: Path) -> None:
    """All rows at 16:00: the hours are to be added; to normalize would date them a day early."""
    path = tmp_path / "table.parquet"
    shanghai(path, as_index=True)
    frame = pd.read_parquet(path)
    moments = frame.index.levels[0].tz_localize(None)
    frame.index = frame.index.set_levels(moments, level=0)
    frame.to_parquet(path)
    problem = problem_of(path)
    assert problem.slug == "table-intraday"
    assert "index.levels[0] + pd.Timedelta(hours=8)" in problem.hint
    frame.index = frame.index.set_levels(moments + pd.Timedelta(hours=8), level=0)
    frame.to_parquet(path)
    assert read_factor_table(path).start == DAYS[0]


def test_times_of_a_trading_day(tmp_path: Path) -> None:
    """Different times, or one in the morning, are a matter of aggregating or normalizing."""
    frame = pd.DataFrame({**COLUMNS, "datetime": pd.to_datetime(COLUMNS["datetime"]) + pd.Timedelta("9h")})
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    assert problem_of(tmp_path / "a.parquet").hint.startswith("Aggregate to days, or normalize")


def test_the_advice_for_a_partitioned_folder(tmp_path: Path) -> None:
    """A folder of parts is told as a folder, and one file made as advised is read."""
    folder = tmp_path / "table"
    with duckdb.connect() as connection:
        connection.register("given", pa.table(COLUMNS))
        connection.execute(
            f"COPY (SELECT *, year(datetime) AS y FROM given) TO '{folder}' (FORMAT parquet, PARTITION_BY (y))"
        )
    problem = problem_of(folder)
    assert problem.slug == "table-unreadable"
    assert f"{folder} is a folder; a factor table is one parquet file." in problem.message
    with pytest.raises(TableError, match="is a folder"):
        find_source(Settings(load_sota_factors=True, sota_factors_path=folder))
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    folder.rename(workspace / "combined_factors_df.parquet")
    with pytest.raises(TableError, match="is a folder"):
        find_source(Settings(load_sota_from_workspace=True, sota_workspace_path=workspace))
    code = problem.hint.partition("named by: ")[2].removesuffix(".")
    code = code.replace(str(folder), str(workspace / "combined_factors_df.parquet"))
    eval(code.replace("'factors.parquet'", f"'{tmp_path / 'one.parquet'}'"), {"pyarrow": pa})
    assert read_factor_table(tmp_path / "one.parquet").names == ("A", "B")


def test_footers_that_would_take_too_much(tmp_path: Path) -> None:
    """Thirty thousand columns, or a footer of a hundred MB, are refused before they are parsed."""
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({f"c{number}": [1.0] for number in range(30_000)}), path)
    assert "more than 20,000 columns" in problem_of(path).message
    path.write_bytes(b"PAR1" + bytes(100) + (100 << 20).to_bytes(4, "little") + b"PAR1")
    assert "its footer has 100 MB, and 32 MB is the limit" in problem_of(path).message


def test_a_count_of_rows_that_is_a_lie(tmp_path: Path) -> None:
    """Memory is not allocated by what a footer promises."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(COLUMNS), path, compression="none")
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = content[-8 - length : -8]
    # Field 3 of the footer, num_rows, as a zigzag number: 4, and in its place 2**40 - 4.
    place = footer.index(b"\x16\x08\x19")
    for number in (b"\xf8\xff\xff\xff\xff\x3f", b"\x06", b"\x07"):
        forged = footer[: place + 1] + number + footer[place + 2 :]
        path.write_bytes(content[: -8 - length] + forged + len(forged).to_bytes(4, "little") + b"PAR1")
        assert problem_of(path).slug == "table-unreadable"


def test_years_that_pandas_does_not_have(tmp_path: Path) -> None:
    """Days of the year 1500 are an error that says so."""
    columns = {**COLUMNS, "datetime": [date(1500, 1, 1), date(1500, 1, 1), *COLUMNS["datetime"][2:]]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert "dates outside 1677 to 2262" in problem_of(tmp_path / "a.parquet").message

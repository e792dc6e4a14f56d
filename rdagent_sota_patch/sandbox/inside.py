"""What runs *inside* the jail on tables: it surveys and cuts the files of a data folder, and takes over a result.

HDF5 files may hold pickles that their reader loads. This file is sent in as it is; nothing here imports the package.
What comes out is numbers and JSON: see `frames` for the layout.

Where a table has its dates: an index level or column called as in `KNOWN_DATES`; otherwise all levels and columns of a
datetime type, or of texts that are all written 2024-01-31, of which a row's latest counts. Texts and whole numbers
(20240131) count as dates where the name says so, and are an error where not all of them are dates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

MAIN = "daily_pv.h5"
KEY = "data"
KNOWN_DATES = ("datetime", "date", "trade_date", "tradedate", "trading_date", "trading_day")
KNOWN_STOCKS = ("instrument", "ts_code", "code", "symbol", "stock_code", "ticker", "stock", "order_book_id")
TWICE = "has more than one row of"
"""In the fault of a table that has a stock twice on a day."""

_ROWS = 500_000
_NO_END = np.datetime64("2262-01-01", "ns")
_DAY = re.compile(r"\d{4}([-/.]?)\d{1,2}\1\d{1,2}([ T].*)?")
_ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?")


class Unfit(Exception):
    """A table that is not what it should be."""


@dataclass(frozen=True)
class Coded:
    """An index level or a column: its distinct values, and by row the place of its value, -1 for none."""

    codes: np.ndarray
    values: Any

    def present(self) -> np.ndarray:
        """The places that some row has, rising."""
        seen = np.zeros(len(self.values), dtype=bool)
        seen[self.codes[self.codes >= 0]] = True
        return np.flatnonzero(seen)


Field = Callable[[], Coded]
"""An index level or column, read when it is asked for."""


@dataclass(frozen=True)
class Part:
    """One table of a file.

    Attributes:
        index: Which of the fields are its index.
        frame: The table itself; None where it was not read whole.
    """

    key: str
    rows: int
    fields: Mapping[str, Field]
    index: tuple[str, ...]
    frame: Any = None


# ------------------------------------------------------------------------------------------------ what is surveyed


def survey(names: Sequence[str], target: str) -> None:
    """Write what each file holds: a header, the days of each table that has some, and of the first who was traded."""
    headers: list[dict[str, Any]] = []
    arrays: list[np.ndarray] = []
    for name in names:
        try:
            header, own = survey_file(Path(name))
        except Exception as error:  # noqa: BLE001 - whatever a stranger's file leads to is said outside
            header, own = {"fault": _fault(error)}, []
        headers.append({"name": name, **header})
        arrays += own
    _save(target, {"files": headers}, *arrays)


def survey_file(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """One file: its header; its days, if it has some; and of `MAIN`, what `_presence` gives."""
    columns: dict[str, None] = {}
    stocks: set[str] = set()
    days: list[np.ndarray] = []
    more: list[np.ndarray] = []
    rows, dated = 0, True
    for part in _parts(path):
        if path.name == MAIN and (part.key != KEY or set(part.index) != {"datetime", "instrument"}):
            raise Unfit(
                f"its key is {part.key!r} and its index {list(part.index)}, not {KEY!r} and datetime and instrument"
            )
        rows += part.rows
        columns.update(dict.fromkeys(name for name in part.fields if name not in part.index))
        name, coded = _stocks_of(part.fields)
        if coded is not None:
            stocks.update(coded.values[coded.present()])
        by_row = days_of(part.fields)
        if by_row is None:
            dated = False
            continue
        places, unique = pd.factorize(by_row, sort=True)
        days.append(np.asarray(unique, dtype="datetime64[ns]"))
        if coded is not None and name in part.index and len(part.index) == 2:
            _refuse_twice(places, unique, coded)
            if path.name == MAIN:
                more = _presence(part.frame, places, len(unique), coded)
    header: dict[str, Any] = {"columns": list(columns), "instruments": sorted(stocks), "rows": rows}
    header |= {"dated": dated, "presence": bool(more)}
    return header, [np.unique(np.concatenate(days)), *more] if dated else []


def _stocks_of(fields: Mapping[str, Field]) -> tuple[str, Coded | None]:
    for name, field in fields.items():
        if name.lower() in KNOWN_STOCKS:
            coded = field()
            texts = all(isinstance(value, str) for value in coded.values)
            return name, coded if texts else None
    return "", None


def _refuse_twice(days: np.ndarray, day_names: Any, stocks: Coded) -> None:
    known = (days >= 0) & (stocks.codes >= 0)
    width = len(stocks.values)
    cells = days[known].astype(np.int64) * width + stocks.codes[known]
    seen = np.zeros(len(day_names) * width, dtype=bool)
    seen[cells] = True
    if int(seen.sum()) == len(cells):
        return
    counts = np.bincount(cells, minlength=len(seen)).reshape(-1, width)
    days_twice = np.flatnonzero((counts > 1).any(axis=1))
    twice = [str(name) for name in stocks.values[np.flatnonzero(counts[days_twice[0]] > 1)]]
    listed = ", ".join(twice[:3]) + (f" and {len(twice) - 3} more stocks" if len(twice) > 3 else "")
    also = f"; so have {len(days_twice) - 1} more days" if len(days_twice) > 1 else ""
    raise Unfit(f"{pd.Timestamp(day_names[days_twice[0]]):%Y-%m-%d} {TWICE} {listed}{also}")


def _presence(frame: pd.DataFrame, days: np.ndarray, count: int, stocks: Coded) -> list[np.ndarray]:
    """By day and stock, sorted, as packed bits: who has every number, and who was traded."""
    present = stocks.present()
    order = present[np.argsort(np.asarray(stocks.values[present], dtype=object))]
    columns = np.zeros(len(stocks.values), dtype=np.int64)
    columns[order] = np.arange(len(order))
    known = (days >= 0) & (stocks.codes >= 0)
    rows, places = days[known], columns[stocks.codes[known]]
    has, traded = np.zeros((2, count, len(order)), dtype=bool)
    filled = frame.notna()
    has[rows, places] = filled.all(axis=1).to_numpy()[known]
    traded[rows, places] = _were_traded(frame, filled)[known]
    return [np.packbits(has), np.packbits(traded)]


def _were_traded(frame: pd.DataFrame, filled: pd.DataFrame) -> np.ndarray:
    """By row, whether the stock had a price and a volume; one without these columns, whether it has any number.

    A halted stock has no row, or one of NaN in which Qlib's data go on with ``$factor``, or the last price again with a
    volume of 0.
    """
    if "$close" not in frame.columns:
        return np.asarray(filled.any(axis=1))
    traded = np.asarray(filled["$close"])
    if "$volume" in frame.columns and bool(filled["$volume"].any()):
        traded = traded & np.asarray(frame["$volume"] > 0)
    return traded


# ------------------------------------------------------------------------------------------------ where the dates are


def days_of(fields: Mapping[str, Field]) -> np.ndarray | None:
    """By row the day from which on it is known, ``datetime64[ns]`` at midnight; None for a table without dates."""
    found = [_as_days(name, fields[name]()) for name in date_fields(fields)]
    if not found:
        return None
    latest = found[0]
    for other in found[1:]:
        latest = np.fmax(latest, other)
    return latest


def date_fields(fields: Mapping[str, Field]) -> tuple[str, ...]:
    """The names of the levels or columns that date a table's rows; see the top of this file."""
    by_name = {name.lower(): name for name in reversed(list(fields))}
    for known in KNOWN_DATES:
        if known in by_name and not pd.api.types.is_float_dtype(fields[by_name[known]]().values.dtype):
            return (by_name[known],)
    found = ((name, field().values) for name, field in fields.items())
    return tuple(name for name, values in found if _are_dates(values) or _are_iso_texts(values))


def _are_dates(values: Any) -> bool:
    return isinstance(values.dtype, pd.DatetimeTZDtype) or values.dtype.kind == "M"


def _are_iso_texts(values: Any) -> bool:
    if _are_dates(values) or pd.api.types.is_numeric_dtype(values.dtype):
        return False
    texts = [value for value in values if value != ""]
    return bool(texts) and all(isinstance(text, str) and _ISO_DAY.fullmatch(text) for text in texts)


def _as_days(name: str, coded: Coded) -> np.ndarray:
    if _are_dates(coded.values):
        dates: pd.DatetimeIndex = pd.DatetimeIndex(coded.values)
        if dates.tz is not None:
            _refuse_times(name, dates)
        days = dates.tz_localize(None).normalize().to_numpy()
    else:
        days = np.array([_as_day(name, value) for value in coded.values], dtype="datetime64[ns]")
    # The place -1 is the last.
    by_row: np.ndarray = np.append(np.asarray(days, dtype="datetime64[ns]"), np.datetime64("NaT"))[
        coded.codes
    ]
    return by_row


def _refuse_times(name: str, dates: pd.DatetimeIndex) -> None:
    """Midnights of a time zone are days. Other times need not be: midnight in Shanghai is the day before in UTC."""
    known = dates.dropna()
    times = known[known != known.normalize()]
    if len(times):
        raise Unfit(
            f"{name!r} has times of the time zone {dates.tz}, such as {times[0].isoformat()}, and that day need not "
            f"be the market's: convert them first, df[{name!r}].dt.tz_convert('Asia/Shanghai').dt.tz_localize(None)"
        )


def _as_day(name: str, value: object) -> np.datetime64:
    """A date, a text or a whole number as a day."""
    text = str(value).strip()
    try:
        if text and not _DAY.fullmatch(text):
            raise ValueError
        if not text:
            return np.datetime64("NaT")
        date = pd.Timestamp(text)
        if date.tz is not None:
            _refuse_times(name, pd.DatetimeIndex([date]))
        day: np.datetime64 = date.tz_localize(None).normalize().to_datetime64()
        return day
    except ValueError:
        raise Unfit(
            f"{name!r} should hold dates, and holds {text[:40]!r}: nothing says from which day on its row is known"
        ) from None


# ------------------------------------------------------------------------------------------------ reading


def kind_of(name: str) -> str:
    """``hdf``, ``parquet``, ``csv``, or ``other`` for what is not a table."""
    lower = name.lower()
    if lower.endswith((".h5", ".hdf5", ".hdf", ".he5")):
        return "hdf"
    if lower.endswith((".parquet", ".pq")):
        return "parquet"
    return "csv" if re.search(r"\.csv(\.(gz|bz2|xz|zip|zst))?$", lower) else "other"


def _parts(path: Path) -> Iterator[Part]:
    """Each table of a file."""
    kind = kind_of(path.name)
    if kind == "hdf":
        for key, found, _ in _stored(path):
            fields, index = _fields_of(found)
            yield Part(key.strip("/"), len(found), fields, index, found)
    elif kind == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            fields, index = _parquet_fields(file)
            yield Part("", file.metadata.num_rows, fields, index)
    else:
        frame = _read_csv(path)
        yield Part("", len(frame), _csv_fields(frame), ())


def _stored(path: Path) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Each table that pandas keeps in an HDF5 file: key, table, and how to write it likewise."""
    with pd.HDFStore(str(path), mode="r") as store:
        keys = store.keys()
        if not keys:
            raise Unfit("it holds no table that pandas wrote")
        for key in keys:
            found = store.get(key)
            if not isinstance(found, (pd.DataFrame, pd.Series)):
                raise Unfit(f"{key} holds a {type(found).__name__}, not a table")
            storer = store.get_storer(key)
            if storer.is_table:
                yield key, found, {"format": "table", "data_columns": list(storer.data_columns) or None}
            else:
                yield key, found, {"format": "fixed"}


def _fields_of(frame: Any) -> tuple[dict[str, Field], tuple[str, ...]]:
    index = frame.index
    names = tuple(f"level_{at}" if name is None else str(name) for at, name in enumerate(index.names))
    fields: dict[str, Field] = {}
    if isinstance(index, pd.MultiIndex):
        for name, codes, values in zip(names, index.codes, index.levels, strict=True):
            fields[name] = lambda codes=codes, values=values: Coded(np.asarray(codes), values)  # type: ignore[misc]
    elif isinstance(index, pd.RangeIndex):
        names = ()
    else:
        fields[names[0]] = _once(index)
    columns = [frame] if isinstance(frame, pd.Series) else [frame.iloc[:, at] for at in range(frame.shape[1])]
    for column in columns:
        fields.setdefault(str(column.name), _once(column))
    return fields, names


def _csv_fields(frame: pd.DataFrame) -> dict[str, Field]:
    return {_decoded(name): field for name, field in _fields_of(frame)[0].items()}


def _once(values: Any) -> Field:
    kept: list[Coded] = []

    def field() -> Coded:
        if not kept:
            if values.dtype.kind in "fcb":  # Numbers that are no dates, and of which there are many.
                kept.append(Coded(np.empty(0, dtype=np.int64), pd.Index([], dtype=values.dtype)))
            else:
                kept.append(Coded(*pd.factorize(values)))
        return kept[0]

    return field


def _parquet_fields(file: Any) -> tuple[dict[str, Field], tuple[str, ...]]:
    import pyarrow as pa

    schema = file.schema_arrow
    pandas = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    index = tuple(name for name in pandas.get("index_columns", []) if isinstance(name, str))

    def read(name: str) -> Coded:
        column = file.read(columns=[name]).column(0)
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("ns"))
        if not len(column):  # Which pandas cannot take over as categories.
            dated = pa.types.is_timestamp(column.type)
            return Coded(
                np.empty(0, dtype=np.int64), pd.DatetimeIndex([]) if dated else pd.Index([], dtype=object)
            )
        if (
            pa.types.is_nested(column.type)
            or pa.types.is_floating(column.type)
            or pa.types.is_boolean(column.type)
            or pa.types.is_null(column.type)
        ):
            return Coded(np.empty(0, dtype=np.int64), pd.Index([], dtype="float64"))
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        whole = column.unify_dictionaries().combine_chunks()
        chunk = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
        codes = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return Coded(codes.astype(np.int64), pd.Index(chunk.dictionary.to_pandas()))

    kept: dict[str, Coded] = {}

    def field(name: str) -> Coded:
        if name not in kept:
            kept[name] = read(name)
        return kept[name]

    names = dict.fromkeys([*index, *schema.names])
    return {name: (lambda name=name: field(name)) for name in names}, index  # type: ignore[misc]


def _read_csv(path: Path, **how: Any) -> Any:
    # Texts as they are; and each byte as one character, which loses nothing of any encoding.
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="latin-1", **how)


def _decoded(name: str) -> str:
    return name.encode("latin-1", "replace").decode("utf-8", "replace").lstrip("\ufeff")


# ------------------------------------------------------------------------------------------------ cutting


def cut(files: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write copies of files, each with ``target``; ``start``, ``end``, ``altered_after`` (days, or None); and ``ends``,
    pairs of a stock and the last day of its own.
    """
    for name, copies in files.items():
        cut_file(Path(name), name, copies)


def cut_file(path: Path, name: str, copies: Sequence[Mapping[str, Any]]) -> None:
    """Write copies of one file of a kind that its name tells: the rows of some days, everything else as it was."""
    {"hdf": _cut_hdf, "parquet": _cut_parquet, "csv": _cut_csv}[kind_of(name)](path, copies)


def _wanted(days: np.ndarray, copy: Mapping[str, Any], stocks: Coded | None) -> np.ndarray:
    kept = np.ones(len(days), dtype=bool)
    if copy["ends"] and stocks is not None and len(stocks.codes) == len(days):
        last = {name: np.datetime64(day) for name, day in copy["ends"]}
        # The place -1, and a stock that is not named, have no end of their own.
        ends = [last.get(name, _NO_END) for name in stocks.values]
        kept &= ~(days > np.array([*ends, _NO_END], dtype="datetime64[ns]")[stocks.codes])
    if copy["start"] is not None:
        kept &= days >= np.datetime64(copy["start"])
    if copy["end"] is not None:
        kept &= days <= np.datetime64(copy["end"])
    return kept


def _stocks_where_needed(fields: Mapping[str, Field], copies: Sequence[Mapping[str, Any]]) -> Coded | None:
    return _stocks_of(fields)[1] if any(copy["ends"] for copy in copies) else None


def _cut_hdf(path: Path, copies: Sequence[Mapping[str, Any]]) -> None:
    for number, (key, frame, how) in enumerate(_stored(path)):
        fields, _ = _fields_of(frame)
        dates = date_fields(fields)
        days = days_of(fields)
        stocks = _stocks_where_needed(fields, copies)
        for copy in copies:
            part = frame
            if days is not None:
                if copy["altered_after"] is not None:
                    part = _altered(frame, days > np.datetime64(copy["altered_after"]), dates)
                kept = _wanted(days, copy, stocks)
                if not kept.all():
                    part = part[kept]
                    if isinstance(part.index, pd.MultiIndex):
                        # The levels of a slice still name the days that were cut off.
                        part.index = part.index.remove_unused_levels()
            part.to_hdf(str(copy["target"]), key=key, mode="w" if not number else "a", **how)


def _altered(frame: Any, later: np.ndarray, dates: Sequence[str]) -> Any:
    """Other numbers where ``later``, with every row, gap and type as it was."""
    changed = frame.to_frame() if isinstance(frame, pd.Series) else frame.copy()
    factors = np.random.default_rng(20).uniform(0.5, 1.5, (int(later.sum()), changed.shape[1]))
    for at in range(changed.shape[1]):
        values = changed.iloc[:, at].to_numpy().copy()
        if values.dtype.kind in "fiu" and str(changed.columns[at]) not in dates:
            values[later] = (values[later] * factors[:, at]).astype(values.dtype)
            changed.isetitem(at, values)
    return changed.iloc[:, 0] if isinstance(frame, pd.Series) else changed


def _cut_parquet(path: Path, copies: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        fields, _ = _parquet_fields(file)
        dates = date_fields(fields)
        days = days_of(fields)
        if days is None:
            raise Unfit("it has no dates to cut at")
        stocks = _stocks_where_needed(fields, copies)
        writers = [pq.ParquetWriter(str(copy["target"]), file.schema_arrow) for copy in copies]
        first = 0
        for group in range(file.num_row_groups):
            own = days[first : first + file.metadata.row_group(group).num_rows]
            named = None if stocks is None else Coded(stocks.codes[first : first + len(own)], stocks.values)
            first += len(own)
            kept = [_wanted(own, copy, named) for copy in copies]
            if not any(rows.any() for rows in kept):
                continue
            table = file.read_row_group(group)
            for writer, rows, copy in zip(writers, kept, copies, strict=True):
                part = table
                if copy["altered_after"] is not None:
                    part = _altered_arrow(table, own > np.datetime64(copy["altered_after"]), dates, group)
                if rows.any():
                    writer.write_table(part if rows.all() else part.filter(pa.array(rows)))
        for writer in writers:
            writer.close()


def _altered_arrow(table: Any, later: np.ndarray, dates: Sequence[str], seed: int) -> Any:
    import pyarrow as pa

    random = np.random.default_rng(20 + seed)
    for at, field in enumerate(table.schema):
        if field.name in dates or not (pa.types.is_floating(field.type) or pa.types.is_integer(field.type)):
            continue
        column = table.column(at)
        values = column.to_numpy().copy()
        factors = random.uniform(0.5, 1.5, int(later.sum()))
        values[later] = (values[later] * factors).astype(values.dtype)
        array = pa.array(values, mask=np.asarray(column.is_null()), from_pandas=False)
        table = table.set_column(at, field, array.cast(field.type, safe=False))
    return table


def _cut_csv(path: Path, copies: Sequence[Mapping[str, Any]]) -> None:
    whole = _read_csv(path, chunksize=_ROWS)
    dates: tuple[str, ...] = ()
    for number, frame in enumerate(whole):
        fields = _csv_fields(frame)
        dates = dates or date_fields(fields)
        days = days_of({name: fields[name] for name in dates})
        assert days is not None
        stocks = _stocks_where_needed(fields, copies)
        for copy in copies:
            part = frame
            if copy["altered_after"] is not None:
                part = _altered_texts(frame, days > np.datetime64(copy["altered_after"]), dates, number)
            part[_wanted(days, copy, stocks)].to_csv(
                str(copy["target"]),
                mode="a" if number else "w",
                header=not number,
                index=False,
                encoding="latin-1",
            )


def _altered_texts(frame: Any, later: np.ndarray, dates: Sequence[str], seed: int) -> Any:
    changed = frame.copy()
    random = np.random.default_rng(20 + seed)
    for at, name in enumerate(frame.columns):
        numbers = pd.to_numeric(frame.iloc[:, at], errors="coerce").to_numpy()
        alterable = later & np.isfinite(numbers)
        if _decoded(name) in dates or name.lower() in KNOWN_STOCKS or not alterable.any():
            continue
        texts = frame.iloc[:, at].to_numpy().copy()
        texts[alterable] = [repr(float(value)) for value in numbers[alterable] * random.uniform(0.5, 1.5)]
        changed.isetitem(at, texts)
    return changed


# ------------------------------------------------------------------------------------------------ what comes out


def convert_result(result: str, target: str) -> str | None:
    """Write a factor's HDF5 result as numbers; None, or why that cannot be."""
    try:
        _write(_read_result(Path(result)), target)
    except Exception as error:  # noqa: BLE001 - as above
        return _fault(error)
    return None


def _read_result(path: Path) -> pd.DataFrame:
    if path.is_symlink() or not path.is_file():
        raise Unfit("it is a link" if path.is_symlink() else "it was not written")
    # RD-Agent reads it so, whatever its key: FactorFBWorkspace.execute.
    found = pd.read_hdf(path)
    frame = found.to_frame() if isinstance(found, pd.Series) else found
    if not isinstance(frame, pd.DataFrame):
        raise Unfit(f"it holds a {type(frame).__name__}, not a table")
    if frame.shape[1] != 1:
        raise Unfit(f"it has {frame.shape[1]} columns, not one")
    return frame


def convert_market(source: str, target: str) -> None:
    """Write the market data as numbers, or why that cannot be."""
    try:
        _write(pd.read_hdf(source, key=KEY), target)
    except Exception as error:  # noqa: BLE001 - as above
        _save(target, {"fault": _fault(error)})


def _write(frame: object, target: str) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise Unfit(f"it holds a {type(frame).__name__}, not a table")
    index = frame.index
    if not isinstance(index, pd.MultiIndex) or sorted(map(str, index.names)) != ["datetime", "instrument"]:
        raise Unfit(f"its index is {list(index.names)}, not datetime and instrument")
    # Values are the same in either order of the two.
    index = index.reorder_levels(["datetime", "instrument"]).remove_unused_levels()
    days, instruments = index.levels
    if not isinstance(days, pd.DatetimeIndex) or days.tz is not None:
        raise Unfit(f"its datetime level is {days.dtype}, not plain dates")
    names = instruments.tolist()
    if not all(isinstance(name, str) for name in names):
        raise Unfit("its instruments are not all texts")
    if any((codes < 0).any() for codes in index.codes):
        raise Unfit("rows have no datetime or no instrument")
    columns = [frame.iloc[:, position].to_numpy() for position in range(frame.shape[1])]
    for name, column in zip(frame.columns, columns, strict=True):
        if column.dtype.kind not in "fiub":
            raise Unfit(f"column {name!r} holds {column.dtype}, not numbers")
    order = np.argsort(days.to_numpy(), kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    header = {"columns": [str(name) for name in frame.columns], "instruments": names, "rows": len(frame)}
    codes = [places[np.asarray(index.codes[0])], np.asarray(index.codes[1], dtype=np.int64)]
    _save(target, header, days.to_numpy()[order].astype("datetime64[ns]"), *codes, *columns)


def _fault(error: Exception) -> str:
    # The HDF5 library tells the way down to an error in many lines, and the error in the last.
    text = " ".join(str(error).strip().splitlines()[-1:])[:2000]
    return text if isinstance(error, Unfit) else f"it cannot be read: {type(error).__name__}: {text}"


def _save(target: str, header: dict[str, object], *arrays: np.ndarray) -> None:
    with Path(target).open("wb") as file:
        np.save(file, np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
        for array in arrays:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)

"""The rows of a factor table: its index read on its own, checked, and brought into Qlib's order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.pages import MOST_NAMES
from rdagent_sota_patch.factor_table.reading import BATCH_ROWS, iterate_column, open_parquet, unreadable
from rdagent_sota_patch.factor_table.schema import is_text_view

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.schema import TableSchema

_EPOCH = date(1970, 1, 1)
_UNITS_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
# What datetime64[ns] can hold, in days; Qlib knows no other.
_FIRST_DAY, _LAST_DAY = -106_751, 106_751


@dataclass(frozen=True, slots=True, eq=False)
class RowIndex:
    """The index of a table, in the order of its rows.

    Attributes:
        days: Days since 1970-01-01, shape (rows,).
        codes: Positions in ``instruments``, shape (rows,).
        instruments: The instruments that occur, sorted.
        order: The row positions that sort the table by (datetime, instrument), shape (rows,); None when
            it is sorted already.
    """

    days: NDArray[np.int32]
    codes: NDArray[np.int32]
    instruments: tuple[str, ...]
    order: NDArray[np.int64] | None

    @property
    def start(self) -> date:
        """The first day."""
        return _to_date(self.days.min())

    @property
    def end(self) -> date:
        """The last day."""
        return _to_date(self.days.max())


def read_rows(path: Path, schema: TableSchema) -> RowIndex:
    """Read and check the index of a table that has one, is not empty, and has index levels of usable types.

    Raises:
        TableError: ``table-index`` (missing values), ``table-intraday``, ``table-duplicate-rows`` or
            ``table-unreadable``.
    """
    if schema.datetime is None or schema.instrument is None:
        raise ValueError("read_rows needs a table with both index levels")
    with open_parquet(path, dictionary=schema.dictionary) as file:
        days = _read_days(file, path, schema.datetime, schema.rows)
        codes, instruments = _read_instruments(file, path, schema.instrument, schema.rows)
    if _is_rising(days, codes):
        return RowIndex(days, codes, instruments, None)
    keys = days * np.int64(len(instruments)) + codes
    order = np.argsort(keys)
    keys.sort()
    doubled = np.flatnonzero(keys[1:] == keys[:-1])
    if len(doubled):
        row = order[doubled[0]]
        raise TableError(
            "table-duplicate-rows",
            f"{path}: {len(doubled)} rows repeat a (datetime, instrument) pair, the first of them "
            f"({_to_date(days[row])}, {instruments[codes[row]]}).",
            "Keep one of them: df[~df.index.duplicated(keep='last')].",
        )
    return RowIndex(days, codes, instruments, order)


def fill(arrays: Iterable[NDArray[Any]], rows: int, kind: str, path: Path) -> NDArray[Any]:
    """One array of ``rows`` values of a numpy type, put together from the batches of a column.

    Raises:
        TableError: ``table-unreadable``, when there are more or fewer than the footer promised.
    """
    try:
        values = np.empty(rows, dtype=kind)
    except (MemoryError, ValueError):
        raise unreadable(path, f"there is no memory for its {rows:,} rows") from None
    position = 0
    for array in arrays:
        end = position + len(array)
        if end > rows:
            break
        values[position:end] = array
        position = end
    else:
        if position == rows:
            return values
    raise unreadable(path, f"its footer promises {rows:,} rows, and a column has another number of them")


def _read_days(file: Any, path: Path, field: str, rows: int) -> NDArray[np.int32]:
    return fill(
        (_whole_days(array, path) for array in iterate_column(file, path, field)), rows, "int32", path
    )


def _whole_days(array: Any, path: Path) -> NDArray[Any]:
    _require_complete(array, path, "datetime")
    whole: NDArray[Any]
    if pa.types.is_timestamp(array.type):
        units = array.view(pa.int64()).to_numpy()
        whole, rest = np.divmod(units, _UNITS_PER_DAY[array.type.unit])
        if rest.any():
            found = np.datetime64(int(units[np.flatnonzero(rest)[0]]), array.type.unit)
            raise TableError(
                "table-intraday",
                f"{path}: the factors must be daily, one row per day and instrument, dated midnight; found {found}.",
                _intraday_hint(rest, _UNITS_PER_DAY[array.type.unit]),
            )
    else:
        whole = array.cast(pa.date32()).view(pa.int32()).to_numpy()
    if len(whole) and (whole.min() < _FIRST_DAY or whole.max() > _LAST_DAY):
        raise TableError(
            "table-index",
            f"{path}: the level datetime holds dates outside 1677 to 2262.",
            "Correct the dates; a wrong unit in pd.to_datetime is the usual cause.",
        )
    return whole


def _intraday_hint(times: NDArray[Any], day: int) -> str:
    """What to do about times of day: one and the same in the afternoon may be a midnight further east, in UTC."""
    hours = float(times[0]) * 24 / day
    if times.min() != times.max() or hours < 12:
        return "Aggregate to days, or normalize the dates: index.levels[0].normalize()."
    ahead = f"{24 - hours:g}"
    return (
        f"Every row has the same time of day. If it is midnight of a market {ahead} hours ahead of UTC, add the hours: "
        f"index.levels[0] + pd.Timedelta(hours={ahead}); to normalize would date each row a day early. If it is the "
        "market's close, normalize: index.levels[0].normalize()."
    )


def _read_instruments(
    file: Any, path: Path, field: str, rows: int
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    seen: dict[str, int] = {}
    # Categories that no row uses are no part of the content.
    used: set[int] = set()
    codes = fill(_instrument_codes(file, path, field, seen, used), rows, "int32", path)
    names = sorted(name for name, place in seen.items() if place in used)
    if "" in names:
        raise TableError(
            "table-index",
            f"{path}: the level instrument holds empty names.",
            "Drop these rows before saving.",
        )
    ranks = np.zeros(len(seen), dtype=np.int32)
    for rank, name in enumerate(names):
        ranks[seen[name]] = rank
    for start in range(0, rows, BATCH_ROWS):
        codes[start : start + BATCH_ROWS] = ranks[codes[start : start + BATCH_ROWS]]
    return codes, tuple(names)


def _instrument_codes(
    file: Any, path: Path, field: str, seen: dict[str, int], used: set[int]
) -> Iterator[NDArray[Any]]:
    dictionary, places = None, np.empty(0, dtype=np.int32)
    for array in iterate_column(file, path, field):
        encoded = _encode(array)
        _require_complete(encoded, path, "instrument")
        if dictionary is None or not encoded.dictionary.equals(dictionary):
            dictionary = encoded.dictionary
            # A null among categories that no row uses is harmless.
            places = np.array(
                [seen.setdefault(name or "", len(seen)) for name in dictionary.to_pylist()], dtype=np.int32
            )
            if len(seen) > MOST_NAMES:
                raise TableError(
                    "table-index",
                    f"{path}: the level instrument holds more than {MOST_NAMES:,} names.",
                    "Write the instruments as Qlib's data does, such as SH600000.",
                )
        chosen = places[encoded.indices.to_numpy()]
        used.update(np.unique(chosen).tolist())
        yield chosen


def _encode(array: Any) -> Any:
    if pa.types.is_dictionary(array.type):
        return array
    return (array.cast(pa.large_string()) if is_text_view(array.type) else array).dictionary_encode()


def _require_complete(array: Any, path: Path, level: str) -> None:
    if array.null_count:
        raise TableError(
            "table-index", f"{path}: the level {level} has missing values.", "Drop these rows before saving."
        )


def _is_rising(days: NDArray[np.int32], codes: NDArray[np.int32]) -> bool:
    later = days[1:] > days[:-1]
    later |= (days[1:] == days[:-1]) & (codes[1:] > codes[:-1])
    return bool(later.all())


def _to_date(day: np.int32) -> date:
    return _EPOCH + timedelta(days=int(day))

"""The rows of a factor table: its index read on its own, checked, and brought into Qlib's order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factors.reading import BATCH_ROWS, iterate_column, open_parquet

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.factors.schema import TableSchema

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
    with open_parquet(path, dictionary=[schema.instrument]) as file:
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


def read_instruments(path: Path, schema: TableSchema) -> frozenset[str]:
    """The instruments that occur in a table.

    Raises:
        TableError: ``table-unreadable``, or ``table-index`` when there is no such level or it has gaps.
    """
    if schema.instrument is None:
        raise TableError.of(schema.problems)
    with open_parquet(path, dictionary=[schema.instrument]) as file:
        return frozenset(_read_instruments(file, path, schema.instrument, schema.rows)[1])


def _read_days(file: Any, path: Path, field: str, rows: int) -> NDArray[np.int32]:
    days = np.empty(rows, dtype=np.int32)
    position = 0
    for array in iterate_column(file, path, field):
        _require_complete(array, path, "datetime")
        if pa.types.is_timestamp(array.type):
            units = array.view(pa.int64()).to_numpy()
            whole = units // _UNITS_PER_DAY[array.type.unit]
            inside = units != whole * _UNITS_PER_DAY[array.type.unit]
            if inside.any():
                found = np.datetime64(int(units[inside][0]), array.type.unit)
                raise TableError(
                    "table-intraday",
                    f"{path}: the factors must be daily, one row per day and instrument, dated midnight; "
                    f"found {found}.",
                    "Aggregate to days, or normalize the dates: index.levels[0].normalize().",
                )
        else:
            whole = array.cast(pa.date32()).view(pa.int32()).to_numpy()
        if len(whole) and (whole.min() < _FIRST_DAY or whole.max() > _LAST_DAY):
            raise TableError(
                "table-index",
                f"{path}: the level datetime holds dates outside 1677 to 2262.",
                "Correct the dates; a wrong unit in pd.to_datetime is the usual cause.",
            )
        days[position : position + len(whole)] = whole
        position += len(whole)
    return days


def _read_instruments(
    file: Any, path: Path, field: str, rows: int
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    seen: dict[str, int] = {}
    codes = np.empty(rows, dtype=np.int32)
    position = 0
    dictionary, places = None, np.empty(0, dtype=np.int32)
    # Categories that no row uses are no part of the content.
    used: set[int] = set()
    for array in iterate_column(file, path, field):
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        _require_complete(encoded, path, "instrument")
        if dictionary is None or not encoded.dictionary.equals(dictionary):
            dictionary = encoded.dictionary
            # A null among categories that no row uses is harmless.
            places = np.array(
                [seen.setdefault(name or "", len(seen)) for name in dictionary.to_pylist()], dtype=np.int32
            )
        chosen = places[encoded.indices.to_numpy()]
        used.update(np.unique(chosen).tolist())
        codes[position : position + len(encoded)] = chosen
        position += len(encoded)
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

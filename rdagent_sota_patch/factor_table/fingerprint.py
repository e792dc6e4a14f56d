"""One hash per content, however it is stored, and on which days there are rows and values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.reading import BATCH_ROWS, iterate_column, open_parquet, unreadable
from rdagent_sota_patch.factor_table.rows import fill

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.rows import RowIndex
    from rdagent_sota_patch.factor_table.schema import FactorColumn, TableSchema


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """What a table covers.

    Attributes:
        days: Its days, rising, as days since 1970-01-01, shape (days,).
        rows: Number of rows on each, shape (days,).
        missing: By factor, how many of its values are missing on each day, shape (days,); without the factors that
            lack none.
    """

    days: NDArray[np.int64]
    rows: NDArray[np.int64]
    missing: Mapping[str, NDArray[np.int64]]


class CoverageCount:
    """Counts while the columns are read."""

    def __init__(self, index: RowIndex) -> None:
        first = int(index.days.min())
        rows = np.bincount(index.days - first)
        present = rows > 0
        self._days = np.flatnonzero(present) + first
        self._rows = rows[present]
        # Of each row, the place of its day among those that occur.
        self._places = (np.cumsum(present, dtype=np.int32) - 1)[index.days - first]
        self._missing: dict[str, NDArray[np.int64]] = {}

    def missing(self, name: str, position: int, missing: NDArray[np.bool_]) -> None:
        """Count the missing values of one factor's batch that begins at row ``position``."""
        places = self._places[position : position + len(missing)][missing]
        counted = np.bincount(places, minlength=len(self._days))
        self._missing[name] = self._missing[name] + counted if name in self._missing else counted

    def done(self) -> Coverage:
        """What was counted."""
        return Coverage(self._days, self._rows, self._missing)


# Part of what is hashed: change it whenever the same content would give another fingerprint.
_VERSION = b"rdagent-sota-table-1"


def compute_fingerprint(
    path: Path, schema: TableSchema, index: RowIndex, count: CoverageCount | None = None
) -> str:
    """Hash the content of a table whose schema and rows are without problems, as ``sha256:<hex>``.

    ``count`` is told of each batch that is read, so that the values are read once for both.

    Columns are read in streams; only a table that is not sorted needs a whole column in memory. Threads were
    tried: they gained nothing on two cores, and cost 30 MB.

    Raises:
        TableError: ``table-unreadable``, or ``table-not-numeric`` for integers beyond 2**53.
    """
    with open_parquet(path) as file:
        columns = {
            column.name: _hash_column(_normalized(file, path, column, count), path, index)
            for column in schema.columns
        }
    return join_fingerprint(index, columns)


def join_fingerprint(index: RowIndex, columns: Mapping[str, bytes]) -> str:
    """The fingerprint of a table of these rows and these columns.

    Args:
        index: Its rows.
        columns: By name, the SHA-256 of a factor's values in the order of the sorted rows, as `normalize` leaves them.
    """
    content = hashlib.sha256(_VERSION)
    content.update(_hash_rows(index))
    for name in sorted(columns):
        content.update(_framed(name))
        content.update(columns[name])
    return f"sha256:{content.hexdigest()}"


def normalize(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Values as they are hashed (one zero, one NaN, little-endian), and which are missing."""
    # Adding zero turns -0.0 into 0.0, and leaves every other number as it is.
    values = values + 0.0
    missing = np.isnan(values)
    if missing.any():
        values[missing] = np.nan
    return values.astype("<f8", copy=False), missing


def _hash_rows(index: RowIndex) -> bytes:
    digest = hashlib.sha256()
    digest.update(len(index.instruments).to_bytes(8, "little"))
    for name in index.instruments:
        digest.update(_framed(name))
    for values in (index.days, index.codes):
        _update_in_order(digest, values.astype("<i4", copy=False), index.order)
    return digest.digest()


def _hash_column(batches: Iterator[NDArray[np.float64]], path: Path, index: RowIndex) -> bytes:
    digest = hashlib.sha256()
    rows = len(index.days)
    if index.order is not None:
        _update_in_order(digest, fill(batches, rows, "<f8", path), index.order)
        return digest.digest()
    for values in batches:
        digest.update(values.data)
        rows -= len(values)
    if rows:
        raise unreadable(path, "its columns are of different lengths")
    return digest.digest()


def _update_in_order(digest: Any, values: NDArray[Any], order: NDArray[np.int64] | None) -> None:
    if order is None:
        digest.update(values.data)
        return
    for start in range(0, len(order), BATCH_ROWS):
        digest.update(values[order[start : start + BATCH_ROWS]].data)


def _normalized(
    file: Any, path: Path, column: FactorColumn, count: CoverageCount | None
) -> Iterator[NDArray[np.float64]]:
    position = 0
    for array in iterate_column(file, path, column.field):
        values, missing = normalize(_as_float64(array, path, column.name))
        if count is not None and missing.any():
            count.missing(column.name, position, missing)
        position += len(values)
        yield values


def _as_float64(array: Any, path: Path, name: str) -> NDArray[np.float64]:
    if not pa.types.is_float64(array.type):
        try:
            array = array.cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise TableError(
                "table-not-numeric",
                f"{path}: {name} holds integers beyond 2**53, which float64 cannot tell apart.",
                "Convert the column with astype(float), or drop it; identifiers are no factors.",
            ) from error
    values: NDArray[np.float64] = array.to_numpy(zero_copy_only=False)
    return values


def _framed(text: str) -> bytes:
    data = text.encode("utf-8")
    return len(data).to_bytes(8, "little") + data

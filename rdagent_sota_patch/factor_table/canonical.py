"""A table's file copied, and written as RD-Agent writes it."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factor_table.reading import iterate_batches, iterate_column, open_parquet, unreadable
from rdagent_sota_patch.factor_table.rows import read_rows
from rdagent_sota_patch.factor_table.schema import DATETIME, GROUP, INDEX, INSTRUMENT, parse_schema
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.rows import RowIndex
    from rdagent_sota_patch.factor_table.schema import FactorColumn, TableSchema

_PIECE = 1 << 30


def copy_table(source: Path, target: Path, *, durable: bool = False) -> None:
    """Copy ``source`` to ``target`` byte for byte, atomically; never a link to it.

    A link would let RD-Agent's next ``to_parquet`` into the workspace truncate the source. File systems that
    can share blocks until one side is written (Btrfs, XFS) copy at no cost.

    Args:
        source: The file to copy.
        target: Where to; its folder must exist. A target that links to the source becomes a file of its own.
        durable: Whether to wait until the disk has it, which a copy in a workspace does not need.

    Raises:
        TableError: ``table-not-found`` or ``table-unreadable``.
        SotaError: ``cannot-write``.
    """
    if _lexical(source) == _lexical(target):
        raise SotaError(
            "cannot-write", f"Cannot copy {source} onto itself.", "Choose another place for the copy."
        )
    try:
        reader = source.open("rb")
    except FileNotFoundError as error:
        raise TableError(
            "table-not-found", f"SOTA factors file not found: {source}", "Check the path."
        ) from error
    except OSError as error:
        raise unreadable(source, error) from error
    with reader, replace_atomically(target, durable=durable) as temporary, temporary.open("r+b") as writer:
        _copy_bytes(reader, writer)


def _copy_bytes(reader: BinaryIO, writer: BinaryIO) -> None:
    size = os.fstat(reader.fileno()).st_size
    copied = 0
    if hasattr(os, "copy_file_range"):
        # Kernels and file systems refuse it in a dozen ways; what is missing is copied plainly below,
        # and a disk that is full says so again there.
        with suppress(OSError):
            while copied < size:
                moved = os.copy_file_range(reader.fileno(), writer.fileno(), min(_PIECE, size - copied))
                if moved == 0:
                    break
                copied += moved
    reader.seek(copied)
    writer.seek(copied)
    shutil.copyfileobj(reader, writer, 1 << 20)


def _lexical(path: Path) -> Path:
    return path.parent.resolve() / path.name


# Memory for one row group; wide tables get shorter ones, down to the smallest worth its overhead.
_GROUP_BYTES = 12 << 20
_FEWEST_ROWS = 8192
_NS_PER_DAY = 86_400_000_000_000


def write_canonical(source: Path, target: Path) -> FactorTable:
    """Write ``source`` to ``target`` in RD-Agent's layout, atomically; the content stays the same.

    The layout (``rdagent/scenarios/qlib/developer/factor_runner.py``): index (datetime, instrument), sorted,
    datetime64[ns]; columns ("feature", name). A table that has it already is copied byte for byte.

    Returns:
        The table at ``target``.

    Raises:
        TableError: The source is unusable, or was changed meanwhile.
        SotaError: ``cannot-write``.
    """
    table = read_factor_table(source)
    if not table.canonical:
        return rewrite_table(table, target, {})
    copy_table(source, target, durable=True)
    return _require_same(read_factor_table(target), table)


@contextmanager
def as_canonical(table: FactorTable) -> Iterator[FactorTable]:
    """The table in RD-Agent's layout, so that it can be read from its first row to its last: itself, or a copy.

    Raises:
        TableError: It was changed meanwhile, or cannot be read any more.
        SotaError: ``cannot-write``.
    """
    if table.canonical:
        yield table
        return
    with tempfile.TemporaryDirectory(prefix="rdagent-sota-") as folder:
        yield rewrite_table(table, Path(folder) / "table.parquet", {})


def rewrite_table(table: FactorTable, target: Path, metadata: Mapping[bytes, bytes]) -> FactorTable:
    """Write a table to ``target`` in RD-Agent's layout with ``metadata`` in the footer, atomically.

    What was written is read back and compared before it takes the target's place. Memory is bounded by a row
    group; a table that is to be reordered needs disk space for a scratch file beside the target.

    Raises:
        TableError: The source was changed meanwhile, or cannot be read any more.
        SotaError: ``cannot-write``.
    """
    with replace_atomically(target) as temporary:
        with open_parquet(table.path) as file:
            schema = parse_schema(file, table.path)
            if schema.problems:
                raise TableError.of(schema.problems)
            if table.canonical:
                _stream(file, table.path, schema, temporary, metadata)
            else:
                _rearrange(file, table.path, schema, temporary, metadata)
        written = _require_same(read_factor_table(temporary), table)
        size = temporary.stat()
    # Renaming changes neither size nor time of change.
    return replace(written, path=target, stat=(size.st_size, size.st_mtime_ns))


def _require_same(written: FactorTable, table: FactorTable) -> FactorTable:
    if written.fingerprint != table.fingerprint or not written.canonical:
        raise TableError(
            "table-changed",
            f"{table.path} was changed while it was being copied.",
            "Wait until the program that writes it is done, and try again.",
        )
    return written


def _stream(
    file: Any, path: Path, schema: TableSchema, target: Path, metadata: Mapping[bytes, bytes]
) -> None:
    layout = _with_metadata(file.schema_arrow, metadata)
    with _open_writer(target, layout, [schema.datetime, schema.instrument]) as writer:
        for batch in iterate_batches(file, path, rows=_group_rows(len(schema.columns))):
            writer.write_batch(batch.cast(layout))


def _rearrange(
    file: Any, path: Path, schema: TableSchema, target: Path, metadata: Mapping[bytes, bytes]
) -> None:
    index = read_rows(path, schema)
    # Without a name, so that nothing is left behind however this ends.
    with tempfile.TemporaryFile(dir=target.parent) as scratch:
        types = [_sort_column(file, path, column, index, scratch) for column in schema.columns]
        rows = len(index.days)

        def read(start: int, stop: int) -> Iterator[NDArray[Any]]:
            column_start = 0
            for dtype in types:
                scratch.seek(column_start + start * dtype.itemsize)
                yield _read_values(scratch, dtype, stop - start)
                column_start += rows * dtype.itemsize

        columns = {column.name: dtype for column, dtype in zip(schema.columns, types, strict=True)}
        write_rows(target, columns, index, read, metadata)


def _sort_column(
    file: Any, path: Path, column: FactorColumn, index: RowIndex, scratch: BinaryIO
) -> np.dtype[Any]:
    values = np.concatenate(
        [array.to_numpy(zero_copy_only=False) for array in iterate_column(file, path, column.field)]
    )
    if values.dtype == np.float16:
        # Older pyarrow cannot write it; every float16 is a float32.
        values = values.astype(np.float32)
    if index.order is not None:
        values = values[index.order]
    scratch.write(np.ascontiguousarray(values).data)
    return values.dtype


def write_rows(
    target: Path,
    columns: Mapping[str, np.dtype[Any]],
    index: RowIndex,
    read: Callable[[int, int], Iterable[NDArray[Any]]],
    metadata: Mapping[bytes, bytes],
) -> None:
    """Write a table in RD-Agent's layout, a row group at a time.

    Args:
        target: The file; not written atomically.
        columns: The factors and their types, in column order.
        index: Its rows.
        read: Gives the columns' values in rows ``start`` to ``stop`` of the sorted table; asked for rising rows.
        metadata: For the footer.
    """
    layout = _with_metadata(_make_layout(list(columns), list(columns.values())), metadata)
    rows = len(index.days)
    step = _group_rows(len(columns))
    instruments = pa.array(index.instruments, layout.field(INSTRUMENT).type)
    with _open_writer(target, layout, INDEX) as writer:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            chosen = slice(start, stop) if index.order is None else index.order[start:stop]
            arrays = [pa.array(values, from_pandas=True) for values in read(start, stop)]
            nanoseconds = index.days[chosen].astype(np.int64) * _NS_PER_DAY
            arrays.append(pa.array(nanoseconds).view(layout.field(DATETIME).type))
            arrays.append(instruments.take(pa.array(index.codes[chosen])))
            writer.write_batch(pa.record_batch(arrays, schema=layout))


def _read_values(scratch: BinaryIO, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    values: NDArray[Any] = np.frombuffer(scratch.read(count * dtype.itemsize), dtype=dtype)
    return values


def _make_layout(names: list[str], types: list[np.dtype[Any]]) -> Any:
    """The arrow schema that the installed pandas gives such a table, its own metadata included."""
    import pandas as pd

    row = pd.MultiIndex.from_arrays(
        [pd.DatetimeIndex(["2000-01-03"]).astype("datetime64[ns]"), ["SH600000"]], names=list(INDEX)
    )
    sample = pd.DataFrame(
        {(GROUP, name): np.zeros(1, dtype=dtype) for name, dtype in zip(names, types, strict=True)}, index=row
    )
    return pa.Schema.from_pandas(sample)


def _with_metadata(layout: Any, metadata: Mapping[bytes, bytes]) -> Any:
    return layout.with_metadata({**(layout.metadata or {}), **metadata})


def _open_writer(target: Path, layout: Any, dictionary: Any) -> Any:
    # Real numbers hardly ever repeat: a dictionary of them is thrown away again.
    return pq.ParquetWriter(str(target), layout, compression="snappy", use_dictionary=list(dictionary))


def _group_rows(columns: int) -> int:
    return max(_FEWEST_ROWS, _GROUP_BYTES // (8 * (columns + len(INDEX))))

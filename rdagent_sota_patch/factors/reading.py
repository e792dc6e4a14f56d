"""Reading parquet files column by column, in batches small enough that no table is ever held whole."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_patch.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# Half a MB of float64: stays in the processor's cache through all passes over it.
BATCH_ROWS = 65_536
# Pages are streamed through a buffer of this size; without one pyarrow loads whole column chunks.
_BUFFER_BYTES = 1 << 20

_UNREADABLE = (pa.ArrowException, OSError, ValueError)


class ParquetTable(pq.ParquetFile):  # type: ignore[misc]
    """``pyarrow.parquet.ParquetFile``, which otherwise parses its arrow schema anew each time it is asked."""

    @cached_property
    def schema_arrow(self) -> Any:
        """The footer's schema."""
        return super().schema_arrow


@contextmanager
def open_parquet(path: Path, *, dictionary: Sequence[str] = ()) -> Iterator[Any]:
    """Open a parquet file as a `ParquetTable`; only its footer is read.

    Args:
        path: The file.
        dictionary: Fields to read as dictionaries, which spares a string for every row.

    Raises:
        TableError: ``table-not-found`` or ``table-unreadable``.
    """
    if not path.exists():
        raise TableError(
            "table-not-found",
            f"SOTA factors file not found: {path}",
            "Check the path; RD-Agent writes combined_factors_df.parquet into an experiment's workspace.",
        )
    try:
        file = ParquetTable(
            str(path), read_dictionary=list(dictionary) or None, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )
        # Columns of a type that this pyarrow cannot express fail here rather than half-way.
        _ = file.schema_arrow
    except _UNREADABLE as error:
        raise unreadable(path, error) from error
    with file:
        yield file


def iterate_column(file: Any, path: Path, field: str) -> Iterator[Any]:
    """Yield one column as arrow arrays of at most ``BATCH_ROWS`` values.

    Raises:
        TableError: ``table-unreadable``.
    """
    for batch in iterate_batches(file, path, [field]):
        yield batch.column(batch.schema.get_field_index(field))


def iterate_batches(
    file: Any, path: Path, fields: Sequence[str] | None = None, *, rows: int = BATCH_ROWS
) -> Iterator[Any]:
    """Yield record batches of at most ``rows`` rows that hold ``fields`` at least; all fields without.

    pyarrow takes a field name for a path into nested columns, so ``a`` brings ``a.b`` along.

    Raises:
        TableError: ``table-unreadable``.
    """
    columns = None if fields is None else list(fields)
    batches = file.iter_batches(rows, columns=columns, use_threads=False)
    while True:
        # Around the reading alone: what the caller does with a batch has errors of its own.
        try:
            batch = next(batches)
        except StopIteration:
            return
        except _UNREADABLE as error:
            raise unreadable(path, error) from error
        yield batch


def unreadable(path: Path, error: BaseException | str) -> TableError:
    """The error for a file that is no readable parquet file."""
    if path.is_dir():
        return TableError(
            "table-unreadable", f"{path} is a folder, not a parquet file.", "Name the parquet file itself."
        )
    return TableError(
        "table-unreadable",
        f"{path} cannot be read as parquet: {error}",
        "The file may be cut off or of another format; write it again with DataFrame.to_parquet.",
    )

"""Reading parquet files column by column, in batches small enough that no table is ever held whole."""

from __future__ import annotations

import os
import stat
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

# A footer is parsed as a whole before anything can be asked of it, into some twenty times its size. RD-Agent's have
# some kilobytes; ten million rows of five hundred factors need 15 MB.
_LARGEST_FOOTER = 32 << 20
# Of columns, row groups and whatever else a footer counts.
_MOST_ITEMS = 20_000

_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)


class ParquetTable(pq.ParquetFile):  # type: ignore[misc]
    """``pyarrow.parquet.ParquetFile``, which otherwise parses its arrow schema again each time it is asked."""

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
    try:
        _judge_file(path)
        file = ParquetTable(
            str(path),
            read_dictionary=list(dictionary) or None,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            thrift_container_size_limit=_MOST_ITEMS,
        )
        # Columns of a type that this pyarrow cannot express fail here rather than half-way.
        _ = file.schema_arrow
    except (FileNotFoundError, NotADirectoryError):
        raise TableError(
            "table-not-found",
            f"SOTA factors file not found: {path}",
            "Check the path; RD-Agent writes combined_factors_df.parquet into an experiment's workspace.",
        ) from None
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
    file: Any,
    path: Path,
    fields: Sequence[str] | None = None,
    *,
    rows: int = BATCH_ROWS,
    groups: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Yield record batches of at most ``rows`` rows that hold ``fields`` at least; all fields, all row groups without.

    pyarrow takes a field name for a path into nested columns, so ``a`` brings ``a.b`` along.

    Raises:
        TableError: ``table-unreadable``.
    """
    columns = None if fields is None else list(fields)
    batches = file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False)
    while True:
        # Around the reading alone: what the caller does with a batch has errors of its own.
        try:
            batch = next(batches)
        except StopIteration:
            return
        except _UNREADABLE as error:
            raise unreadable(path, error) from error
        yield batch


def column_chunks(file: Any, path: Path, leaf: int) -> Iterator[Any]:
    """What the footer says of one column in each row group, where it does not contradict itself.

    pyarrow ends the whole process where it is asked for a chunk whose entry is damaged, or for statistics of another
    type than the column's. The reader of the column's values looks at the same entry and gives an error: so it is
    begun, and nothing is read.

    Raises:
        TableError: ``table-unreadable``.
    """
    footer, column = file.metadata, file.schema.column(leaf)
    for group in range(footer.num_row_groups):
        try:
            next(
                file.reader.iter_batches(0, row_groups=[group], column_indices=[leaf], use_threads=False),
                None,
            )
        except _UNREADABLE as error:
            raise unreadable(path, error) from error
        chunk = footer.row_group(group).column(leaf)
        if chunk.physical_type != column.physical_type:
            raise unreadable(
                path,
                f"{column.path} is {column.physical_type}, and {chunk.physical_type} in row group {group}",
            )
        yield chunk


def _judge_file(path: Path) -> None:
    """Refuse what is not a file, or has a footer that would take too much to parse.

    Raises:
        TableError: ``table-unreadable``.
        OSError: It cannot be looked at.
    """
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind):
        raise unreadable(path, "it is not a regular file")
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8))
        end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if end[4:] == b"PAR1" and length > _LARGEST_FOOTER:
        raise unreadable(
            path, f"its footer has {length >> 20} MB, and {_LARGEST_FOOTER >> 20} MB is the limit"
        )


def folder_given(path: Path) -> TableError:
    """The error for a folder where a parquet file belongs; several programs write a table as a folder of parts."""
    return TableError(
        "table-unreadable",
        f"{path} is a folder; a factor table is one parquet file.",
        "Name the file in it. If its parts are one table, write it as one file, without the columns that "
        f"the parts are named by: pyarrow.parquet.write_table(pyarrow.parquet.read_table('{path}', "
        "partitioning=None), 'factors.parquet').",
    )


def unreadable(path: Path, error: BaseException | str) -> TableError:
    """The error for a file that is not a readable parquet file."""
    if path.is_dir():
        return folder_given(path)
    why = str(error) or type(error).__name__
    if "Exceeded size limit" in why:
        why = f"its footer lists more than {_MOST_ITEMS:,} columns or row groups, or texts without end"
    return TableError(
        "table-unreadable",
        f"{path} cannot be read as parquet: {why}",
        "The file may be cut off or of another format; write it again with DataFrame.to_parquet.",
    )

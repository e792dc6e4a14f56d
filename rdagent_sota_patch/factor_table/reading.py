"""Reading parquet files column by column, in batches small enough that no table is ever held whole."""

from __future__ import annotations

import io
import os
import stat
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.pages import LONGEST_TEXT, NOT_A_NAME, judge_chunk, text_too_long

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from rdagent_sota_patch.factor_table.pages import ReadAt

# Half a MB of float64: stays in the processor's cache through all passes over it.
BATCH_ROWS = 65_536
# Pages are streamed through a buffer of this size; without one pyarrow loads whole column chunks.
_BUFFER_BYTES = 1 << 20

# A footer is parsed as a whole before anything can be asked of it, into some twenty times its size. RD-Agent's have
# some kilobytes; ten million rows of five hundred factors need 15 MB.
_LARGEST_FOOTER = 32 << 20
# Of columns, row groups and whatever else a footer counts.
_MOST_ITEMS = 20_000

# Rows take some 30 bytes each while an index is read. 5,000 stocks on 2,500 days with zeros alone, packed as well as
# any writer does, are 4 rows a byte; so many rows are taken from a file of any size.
_MOST_ROWS_PER_BYTE, _FEW_ROWS = 8, 1 << 22
# Bytes that are held at the same time: of pages as they are read, or of rows that are kept.
_MOST_HELD_PER_BYTE, _FEW_HELD = 16, 1 << 30
# Of one batch.
_MOST_VALUES = 1 << 25
_MOST_REPEATED = 64 << 20

_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)


class ParquetTable(pq.ParquetFile):  # type: ignore[misc]
    """``pyarrow.parquet.ParquetFile``, with its bytes at hand for those who judge its pages."""

    def __init__(self, source: Any, raw: IO[bytes], **options: Any) -> None:
        super().__init__(source, **options)
        self.size = raw.seek(0, os.SEEK_END)
        if hasattr(os, "pread") and not isinstance(raw, io.BytesIO):
            self.read_at: ReadAt = partial(os.pread, raw.fileno())
        else:
            self.read_at = partial(_read_at, raw)
        # By column and row group: what its pages hold in memory.
        self.judged: dict[tuple[int, int], int] = {}

    @cached_property
    def schema_arrow(self) -> Any:
        """The footer's schema; pyarrow's own parses it again each time it is asked."""
        return super().schema_arrow

    @cached_property
    def rows_problem(self) -> str:
        """What is wrong with the number of rows that the footer promises, and by which memory is allocated."""
        footer = self.metadata
        counted = sum(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        most = max(_FEW_ROWS, _MOST_ROWS_PER_BYTE * self.size)
        if footer.num_rows == counted and 0 <= counted <= most:
            return ""
        return (
            f"its footer promises {footer.num_rows:,} rows; its row groups have {counted:,}, and {most:,} is the limit "
            f"for its {self.size:,} bytes"
        )

    @cached_property
    def leaves(self) -> dict[str, list[int]]:
        """The places of the columns, by their paths."""
        found: dict[str, list[int]] = {}
        for leaf in range(len(self.schema)):
            found.setdefault(self.schema.column(leaf).path, []).append(leaf)
        return found


def _read_at(raw: IO[bytes], size: int, place: int) -> bytes:
    raw.seek(place)
    return raw.read(size)


@contextmanager
def open_parquet(
    path: Path, *, dictionary: Sequence[str] = (), content: bytes | None = None
) -> Iterator[Any]:
    """Open a parquet file as a `ParquetTable`; only its footer is read.

    Args:
        path: The file.
        dictionary: Fields to read as dictionaries, which spares a string for every row.
        content: The file's bytes, where they have been read.

    Raises:
        TableError: ``table-not-found`` or ``table-unreadable``.
    """
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(_open_bytes(path) if content is None else io.BytesIO(content))
            _judge_footer(path, raw)
            file = stack.enter_context(
                ParquetTable(
                    str(path) if content is None else pa.BufferReader(content),
                    raw,
                    read_dictionary=list(dictionary) or None,
                    buffer_size=_BUFFER_BYTES,
                    pre_buffer=False,
                    thrift_container_size_limit=_MOST_ITEMS,
                )
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
    """Yield record batches of at most ``rows`` rows that hold ``fields``; all fields, all row groups without.

    Pages are judged before they are read, and texts before they are handed out. All that is read of a table goes
    through here.

    Raises:
        TableError: ``table-unreadable``.
    """
    chosen = range(file.metadata.num_row_groups) if groups is None else groups
    if fields is None:
        leaves = list(range(len(file.schema)))
    else:
        leaves = [leaf for field in fields for leaf in file.leaves.get(field, ())]
    if file.rows_problem:
        raise unreadable(path, file.rows_problem)
    _judge_pages(file, path, leaves, chosen)
    rows = max(1, min(rows, _MOST_VALUES // max(1, len(leaves))))
    yield from _iterate(file, path, rows, chosen, leaves)


def read_whole(file: Any, path: Path, fields: Sequence[str] | None = None) -> Any:
    """A file of moderate size as an arrow table; all fields without ``fields``.

    Raises:
        TableError: ``table-unreadable``.
    """
    kept, held, schema = [], 0, file.schema_arrow
    for batch in iterate_batches(file, path, fields):
        held += batch.nbytes
        require_room(file, path, held)
        kept.append(batch)
        schema = batch.schema
    return pa.Table.from_batches(kept, schema)


def require_room(file: Any, path: Path, held: int) -> None:
    """See that so many bytes are not too many to be held at the same time for a file of this size.

    Raises:
        TableError: ``table-unreadable``.
    """
    most = max(_FEW_HELD, _MOST_HELD_PER_BYTE * file.size)
    if held > most:
        raise unreadable(
            path,
            f"its {file.size:,} bytes become {held:,} that are needed at the same time, and {most:,} is the limit",
        )


def _judge_pages(file: Any, path: Path, leaves: Sequence[int], groups: Sequence[int]) -> None:
    require_room(file, path, sum(_judge_column(file, path, leaf, groups) for leaf in leaves))


def _judge_column(file: Any, path: Path, leaf: int, groups: Sequence[int]) -> int:
    """The bytes of the largest of a column's pages, each of which is judged once."""
    judged: dict[tuple[int, int], int] = file.judged
    column = file.schema.column(leaf)
    new = [group for group in groups if (leaf, group) not in judged]
    if column.max_repetition_level:
        raise unreadable(path, f"{column.path} holds lists")
    for group, chunk in zip(new, column_chunks(file, path, leaf, new), strict=True):
        try:
            rows = file.metadata.row_group(group).num_rows
            unpacked = judge_chunk(file.read_at, file.size, chunk, rows, column.length)
        except _UNREADABLE as error:
            raise unreadable(path, error) from error
        if unpacked.repeated:
            # Read once in small batches, of which each is judged before the next.
            for _ in _iterate(file, path, max(1, _MOST_REPEATED // unpacked.repeated), [group], [leaf]):
                pass
        judged[leaf, group] = unpacked.page
    return max((judged[leaf, group] for group in groups), default=0)


def _iterate(file: Any, path: Path, rows: int, groups: Sequence[int], leaves: Sequence[int]) -> Iterator[Any]:
    batches = file.reader.iter_batches(
        rows, row_groups=list(groups), column_indices=list(leaves), use_threads=False
    )
    texts: list[int] | None = None
    while True:
        # Around the reading alone: what the caller does with a batch has errors of its own.
        try:
            batch = next(batches)
            if texts is None:
                texts = [place for place, field in enumerate(batch.schema) if _is_text(field.type)]
            for place in texts:
                _require_name(batch.schema.names[place], batch.column(place))
        except StopIteration:
            return
        except _UNREADABLE as error:
            raise unreadable(path, error) from error
        yield batch


def _is_text(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"


def _require_name(name: str, column: Any) -> None:
    """See that texts are short.

    Raises:
        ValueError: One is not.
    """
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if str(texts.type) == "string_view":
        # pyarrow cannot measure these.
        texts = texts.cast(pa.large_string())
    if (pc.max(pc.binary_length(texts)).as_py() or 0) > LONGEST_TEXT:
        raise text_too_long(name)


def column_chunks(file: Any, path: Path, leaf: int, groups: Iterable[int] | None = None) -> Iterator[Any]:
    """What the footer says of one column in each row group, where it does not contradict itself.

    pyarrow ends the whole process where it is asked for a chunk whose entry is damaged, or for statistics of another
    type than the column's. The reader of the column's values looks at the same entry and gives an error: so it is
    begun, and nothing is read.

    Raises:
        TableError: ``table-unreadable``.
    """
    footer, column = file.metadata, file.schema.column(leaf)
    for group in range(footer.num_row_groups) if groups is None else groups:
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


def _open_bytes(path: Path) -> IO[bytes]:
    """Open what is a file.

    Raises:
        TableError: ``table-unreadable``.
        OSError: It cannot be opened.
    """
    # Opening a pipe would wait for who writes it.
    if not stat.S_ISREG(path.stat().st_mode):
        raise unreadable(path, "it is not a regular file")
    return path.open("rb", buffering=0)


def _judge_footer(path: Path, raw: IO[bytes]) -> None:
    """Refuse a footer that would take too much to parse.

    Raises:
        TableError: ``table-unreadable``.
        OSError: It cannot be read.
    """
    raw.seek(max(0, raw.seek(0, os.SEEK_END) - 8))
    end = raw.read(8)
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
    hint = "The file may be cut off or of another format; write it again with DataFrame.to_parquet."
    if why.endswith(NOT_A_NAME):
        hint = "Write the instruments as Qlib's data does, such as SH600000."
    return TableError("table-unreadable", f"{path} cannot be read as parquet: {why}", hint)

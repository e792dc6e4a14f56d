"""The rows of several factor tables as one, and their columns read side by side, from the first row to the last."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.errors import Problem, SotaError, TableError
from rdagent_sota_patch.factor_table.reading import BATCH_ROWS, iterate_batches, open_parquet
from rdagent_sota_patch.factor_table.rows import RowIndex, read_rows
from rdagent_sota_patch.factor_table.schema import FactorColumn, parse_schema
from rdagent_sota_patch.factor_table.universe import suggest_spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.provenance import FactorOrigin
    from rdagent_sota_patch.factor_table.table import FactorTable

LEAST_SHARED = 0.05
"""Of the smaller table's rows: with fewer in common, two tables are hardly of one market."""

_BLOCK_BYTES = 8 << 20
_MOST_OPEN = 64
"""Tables; each takes two of the files that a process may have open, some systems give it 256."""
_SPARSER = 0.5
_SHOWN = 3


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one run gives to a merged table.

    Attributes:
        table: Its factor table, which is only read.
        columns: Those of its factors that are meant, in any order.
        origins: What is known of each, with the name that it is to have.
        label: What the run is called in messages.
        suffix: What tells its factors apart from others of the same name.
    """

    table: FactorTable
    columns: tuple[str, ...]
    origins: tuple[FactorOrigin, ...]
    label: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Share:
    """What a run has of the merged table's rows; in the others its factors are missing.

    Attributes:
        rows: Rows of its table.
        alone: Rows that no other run has.
    """

    label: str
    rows: int
    alone: int


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The merged rows, and where each part's are among them; None for a part that has every row."""

    index: RowIndex
    places: tuple[NDArray[np.int64] | None, ...]
    shares: tuple[Share, ...]


def align(parts: Sequence[Part]) -> tuple[Alignment, list[Problem]]:
    """The rows that any part has, and what is odd about them.

    Raises:
        TableError: ``tables-do-not-overlap``, or a part cannot be used.
    """
    distinct: list[RowIndex] = []
    which = [_note_index(_read_index(part), distinct) for part in parts]
    names = tuple(sorted(set().union(*(index.instruments for index in distinct))))
    ranks = {name: rank for rank, name in enumerate(names)}
    keys = []
    for index in distinct:
        own = np.array([ranks[name] for name in index.instruments], np.int64)
        keys.append(index.days * np.int64(len(names)) + own[index.codes])
    rows: NDArray[np.int64] = reduce(np.union1d, keys[1:], keys[0])
    days, codes = np.divmod(rows, len(names))
    found = [None if len(key) == len(rows) else np.searchsorted(rows, key) for key in keys]
    indexes, places = [distinct[each] for each in which], tuple(found[each] for each in which)
    notices = [*_require_overlap(parts, indexes, places, len(rows))]
    having = np.zeros(len(rows), np.int32)
    for each in places:
        having[_chosen(each)] += 1
    shares = tuple(
        Share(part.label, part.table.rows, int((having[_chosen(each)] == 1).sum()))
        for part, each in zip(parts, places, strict=True)
    )
    return Alignment(
        RowIndex(days.astype(np.int32), codes.astype(np.int32), names, None), places, shares
    ), notices


def _chosen(places: NDArray[np.int64] | None) -> slice | NDArray[np.int64]:
    return slice(None) if places is None else places


def _read_index(part: Part) -> RowIndex:
    path = part.table.path
    with open_parquet(path) as file:
        schema = parse_schema(file, path)
    if schema.problems:
        raise TableError.of(schema.problems)
    return read_rows(path, schema)


def _note_index(index: RowIndex, distinct: list[RowIndex]) -> int:
    """Where an index is among those that were read; many tables of one market have one, and it is kept once."""
    for place, known in enumerate(distinct):
        if (
            known.instruments == index.instruments
            and np.array_equal(known.days, index.days)
            and np.array_equal(known.codes, index.codes)
        ):
            return place
    distinct.append(index)
    return len(distinct) - 1


def _require_overlap(
    parts: Sequence[Part],
    indexes: Sequence[RowIndex],
    places: Sequence[NDArray[np.int64] | None],
    rows: int,
) -> Iterator[Problem]:
    """Refuse a part that hardly shares a row with those before it; tell of one of another frequency."""
    before = np.zeros(rows, bool)
    for number, (part, index, each) in enumerate(zip(parts, indexes, places, strict=True)):
        own = _chosen(each)
        if number:
            shared, smaller = int(before[own].sum()), min(part.table.rows, int(before.sum()))
            if shared < LEAST_SHARED * smaller:
                raise _apart(parts[0], indexes[0], part, index, shared)
            yield from _compare_frequency(parts[0], indexes[0], part, index)
        before[own] = True


def _apart(first: Part, its: RowIndex, other: Part, own: RowIndex, shared: int) -> TableError:
    common = len(set(its.instruments) & set(own.instruments))
    meant = suggest_spellings(own.instruments[:1000], its.instruments) if not common else {}
    spelled = (
        f" {next(iter(meant))} is probably {next(iter(meant.values()))}: one spelling is needed."
        if meant
        else ""
    )
    return TableError(
        "tables-do-not-overlap",
        f"{other.label} ({own.start}…{own.end}, {len(own.instruments)} stocks such as "
        f"{', '.join(own.instruments[:_SHOWN])}) has {shared:,} rows in common with what is before it: {first.label} "
        f"({its.start}…{its.end}, {len(its.instruments)} stocks such as {', '.join(its.instruments[:_SHOWN])}); "
        f"{common} stocks are in both.{spelled}",
        "Runs can be put together that share market and dates; take these apart, or run one of them again on the "
        "other's data.",
    )


def _compare_frequency(first: Part, its: RowIndex, other: Part, own: RowIndex) -> Iterator[Problem]:
    days = [np.unique(index.days) for index in (its, own)]
    start, end = max(each[0] for each in days), min(each[-1] for each in days)
    inside = [int(((each >= start) & (each <= end)).sum()) for each in days]
    if min(inside) < _SPARSER * max(inside):
        yield Problem(
            "tables-differ-in-frequency",
            f"Between the first and last day that they share, {first.label} has {inside[0]:,} days and {other.label} "
            f"{inside[1]:,}. On the days that one lacks, its factors are missing.",
            "Check that both are daily; a model takes what is missing for a zero or the mean, by its processors.",
        )


class _Stream:
    """Columns of an open, sorted table, read once from its first row to its last."""

    def __init__(self, file: Any, part: Part, columns: Sequence[FactorColumn]) -> None:
        self._part = part
        self._fields = [column.field for column in columns]
        self._batches = iterate_batches(file, part.table.path, self._fields)
        self._batch: Any = None
        self._done = 0

    def take(self, count: int) -> list[NDArray[Any]]:
        """The next rows of each column."""
        pieces: list[list[NDArray[Any]]] = [[np.empty(0)] for _ in self._fields]
        while count:
            if self._batch is None or self._done == self._batch.num_rows:
                self._batch, self._done = next(self._batches, None), 0
                if self._batch is None:
                    raise table_changed(self._part)
            step = min(count, self._batch.num_rows - self._done)
            for field, kept in zip(self._fields, pieces, strict=True):
                array = self._batch.column(self._batch.schema.get_field_index(field))
                kept.append(array.slice(self._done, step).to_numpy(zero_copy_only=False))
            self._done += step
            count -= step
        return [np.concatenate(each) for each in pieces]


class _Copy:
    """The same columns from a scratch file, where there are more tables than can be open at a time."""

    def __init__(self, part: Part, columns: Sequence[FactorColumn], scratch: IO[bytes]) -> None:
        self._scratch, self._width = scratch, len(columns)
        self._place = scratch.seek(0, os.SEEK_END)
        with open_parquet(part.table.path) as file:
            stream = _Stream(file, part, columns)
            for start in range(0, part.table.rows, BATCH_ROWS):
                values = np.stack(stream.take(min(BATCH_ROWS, part.table.rows - start)), axis=1)
                _write_all(scratch, values.astype(np.float64, copy=False))

    def take(self, count: int) -> list[NDArray[Any]]:
        """The next rows of each column."""
        self._scratch.seek(self._place)
        values = np.frombuffer(self._scratch.read(8 * self._width * count))
        self._place = self._scratch.tell()
        return list(values.reshape(count, self._width).T)


class AlignedColumns:
    """Columns of all parts in the merged rows, read once from the first to the last."""

    def __init__(
        self,
        parts: Sequence[Part],
        alignment: Alignment,
        columns: Sequence[Sequence[FactorColumn]],
        stack: ExitStack,
    ) -> None:
        self._count = sum(map(len, columns))
        scratch = None
        if len(parts) > _MOST_OPEN:
            scratch = stack.enter_context(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115 (the stack closes it)
        self._streams: list[tuple[_Stream | _Copy, NDArray[np.int64] | None]] = [
            (
                _Stream(stack.enter_context(open_parquet(part.table.path)), part, chosen)
                if scratch is None
                else _Copy(part, chosen, scratch),
                places,
            )
            for part, chosen, places in zip(parts, columns, alignment.places, strict=True)
            if chosen
        ]

    def read(self, start: int, stop: int) -> NDArray[np.float64]:
        """The values in rows ``start`` to ``stop``, shape (columns, rows); NaN where a part has no such row."""
        values = np.full((self._count, stop - start), np.nan)
        row = 0
        for stream, places in self._streams:
            own: slice | NDArray[np.int64] = slice(None)
            count = stop - start
            if places is not None:
                first, last = np.searchsorted(places, [start, stop])
                own, count = places[first:last] - start, int(last - first)
            for array in stream.take(count):
                values[row, own] = array
                row += 1
        return values


def iterate_blocks(index: RowIndex, factors: int) -> Iterator[tuple[int, int]]:
    """Rows of whole days, as many as fit into memory for each stock that there is."""
    days = max(1, _BLOCK_BYTES // (8 * factors * len(index.instruments)))
    starts = np.flatnonzero(np.diff(index.days, prepend=index.days[0] - 1))
    edges = [*starts[::days].tolist(), len(index.days)]
    yield from pairwise(edges)


def _write_all(scratch: IO[bytes], values: NDArray[np.float64]) -> None:
    # Unbuffered: what cannot be written is known here, and not when the file is closed.
    rest = np.ascontiguousarray(values).data.cast("B")
    try:
        while rest:
            rest = rest[scratch.write(rest) :]
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot write a scratch file in {tempfile.gettempdir()}: {error.strerror or error}.",
            "It takes 8 bytes for each value. Name a folder with room by the variable TMPDIR.",
        ) from error


def table_changed(part: Part) -> TableError:
    """The error for a part whose table is not the one that was checked."""
    return TableError(
        "table-changed",
        f"{part.table.path} was changed while it was being read.",
        "Wait until the program that writes it is done, and try again.",
    )

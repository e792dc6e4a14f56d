"""Several factor tables as one: aligned by day and stock, near duplicates left out, names in conflict told apart."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import Problem, SotaError, TableError
from rdagent_sota_patch.factor_table.canonical import as_canonical, write_rows
from rdagent_sota_patch.factor_table.duplicates import DUPLICATE_FROM, MeanCorrelations
from rdagent_sota_patch.factor_table.fingerprint import join_fingerprint, normalize
from rdagent_sota_patch.factor_table.provenance import Provenance, as_metadata
from rdagent_sota_patch.factor_table.reading import BATCH_ROWS, iterate_batches, open_parquet
from rdagent_sota_patch.factor_table.rows import RowIndex, read_rows
from rdagent_sota_patch.factor_table.schema import FactorColumn, parse_schema
from rdagent_sota_patch.factor_table.table import read_factor_table, unchanged
from rdagent_sota_patch.factor_table.universe import suggest_spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

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
class LeftOut:
    """A factor that is not in the merged table, because another one is.

    Attributes:
        like: That one's name in the merged table.
        same: Whether both have one name and the same values.
        correlation: Mean over days of their daily correlation; None where there is none on any day, which RD-Agent's
            rule takes for a duplicate, too.
    """

    name: str
    label: str
    like: str
    same: bool
    correlation: float | None


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


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged table, and what became of the parts.

    Attributes:
        origins: Of its columns; one that has another name here than in its run has ``renamed_from``.
        labels: The part that each column is from.
    """

    table: FactorTable
    origins: tuple[FactorOrigin, ...]
    labels: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    shares: tuple[Share, ...]
    notices: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Alignment:
    """The merged rows, and where each part's are among them; None for a part that has every row."""

    index: RowIndex
    places: tuple[NDArray[np.int64] | None, ...]
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """One factor of one part, and the digest of its values in the merged rows."""

    part: int
    column: FactorColumn
    origin: FactorOrigin
    digest: bytes


def merge_tables(
    parts: Sequence[Part], target: Path, *, described: bool = True, run: Provenance | None = None
) -> Merged:
    """Write the factors of several tables to ``target``, atomically and in RD-Agent's layout.

    A row is there if any part has it. A factor of a later part is left out if RD-Agent's rule would have left it out
    where the factors of the parts before it are accepted already (``factor_runner.py``,
    ``deduplicate_new_factors``), or if it has an earlier one's name and values. Memory is a fraction of the tables':
    their index, and some days of all values; those of very many tables wait in a scratch file. What was written is
    read back and compared before it takes the target's place.

    Args:
        parts: One or more; the order matters.
        target: The file; replaced if it exists.
        described: Whether the footer says where each factor comes from.
        run: What it says of the run that all parts are of; None for several runs.

    Raises:
        TableError: ``tables-do-not-overlap``, or a part cannot be used or was changed meanwhile.
        SotaError: ``cannot-write``.
    """
    with ExitStack() as stack:
        parts = [replace(part, table=stack.enter_context(as_canonical(part.table))) for part in parts]
        alignment, notices = _align(parts)
        candidates, means, same = _compare(parts, alignment)
        kept, left_out = _choose(parts, candidates, means, same)
        about = (run or Provenance("", None)) if described else None
        table = _write(parts, alignment, kept, target, about)
    return Merged(
        table,
        tuple(each.origin for each in kept),
        tuple(parts[each.part].label for each in kept),
        tuple(left_out),
        alignment.shares,
        tuple(notices),
    )


def _align(parts: Sequence[Part]) -> tuple[_Alignment, list[Problem]]:
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
        having[slice(None) if each is None else each] += 1
    shares = tuple(
        Share(part.label, part.table.rows, int((having[slice(None) if each is None else each] == 1).sum()))
        for part, each in zip(parts, places, strict=True)
    )
    return _Alignment(
        RowIndex(days.astype(np.int32), codes.astype(np.int32), names, None), places, shares
    ), notices


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
        own = slice(None) if each is None else each
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
                    raise _changed(self._part)
            step = min(count, self._batch.num_rows - self._done)
            for field, kept in zip(self._fields, pieces, strict=True):
                array = self._batch.column(self._batch.schema.get_field_index(field))
                kept.append(array.slice(self._done, step).to_numpy(zero_copy_only=False))
            self._done += step
            count -= step
        return [np.concatenate(each) for each in pieces]


class _Copy:
    """The same columns from a scratch file, where there are more tables than can be open at a time."""

    def __init__(self, part: Part, columns: Sequence[FactorColumn], scratch: BinaryIO) -> None:
        self._scratch, self._width = scratch, len(columns)
        self._place = scratch.seek(0, os.SEEK_END)
        with open_parquet(part.table.path) as file:
            stream = _Stream(file, part, columns)
            for start in range(0, part.table.rows, BATCH_ROWS):
                values = stream.take(min(BATCH_ROWS, part.table.rows - start))
                try:
                    scratch.write(np.stack(values, axis=1).astype(np.float64, copy=False).data)
                except OSError as error:
                    raise _no_room(error) from error

    def take(self, count: int) -> list[NDArray[Any]]:
        """The next rows of each column."""
        self._scratch.seek(self._place)
        values = np.frombuffer(self._scratch.read(8 * self._width * count))
        self._place = self._scratch.tell()
        return list(values.reshape(count, self._width).T)


class _Aligned:
    """Columns of all parts in the merged rows, read once from the first to the last."""

    def __init__(
        self,
        parts: Sequence[Part],
        alignment: _Alignment,
        columns: Sequence[Sequence[FactorColumn]],
        stack: ExitStack,
    ) -> None:
        self._count = sum(map(len, columns))
        scratch = None
        if len(parts) > _MOST_OPEN:
            scratch = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
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


def _compare(
    parts: Sequence[Part], alignment: _Alignment
) -> tuple[list[_Candidate], NDArray[np.float64], dict[tuple[int, int], bool]]:
    """Every factor, the pairs' mean correlations, and which pairs of one name have the same values."""
    columns = [_find_columns(part) for part in parts]
    owners = [part for part, chosen in enumerate(columns) for _ in chosen]
    origins = [origin for part in parts for origin in part.origins]
    digests = [hashlib.sha256() for _ in owners]
    named = [
        (left, right)
        for right in range(len(owners))
        for left in range(right)
        if owners[left] != owners[right] and origins[left].name == origins[right].name
    ]
    differ, meet = set(), set()
    means = MeanCorrelations(len(owners))
    index = alignment.index
    with ExitStack() as stack:
        aligned = _Aligned(parts, alignment, columns, stack)
        for start, stop in _blocks(index, len(owners)):
            values = aligned.read(start, stop)
            for digest, each in zip(digests, values, strict=True):
                digest.update(normalize(each)[0].data)
            for left, right in named:
                equal, both = values[left] == values[right], ~np.isnan(values[left] + values[right])
                meet |= {(left, right)} if both.any() else set()
                differ |= {(left, right)} if (both & ~equal).any() else set()
            if len(parts) > 1:
                means.add(_by_day(values, index.days[start:stop], index.codes[start:stop]))
    every = [column for chosen in columns for column in chosen]
    candidates = [
        _Candidate(part, column, origin, digest.digest())
        for part, column, origin, digest in zip(owners, every, origins, digests, strict=True)
    ]
    return candidates, means.means(), {pair: pair in meet - differ for pair in named}


def _find_columns(part: Part) -> list[FactorColumn]:
    with open_parquet(part.table.path) as file:
        by_name = {column.name: column for column in parse_schema(file, part.table.path).columns}
    if not set(part.columns) <= by_name.keys():
        raise _changed(part)
    return [by_name[name] for name in part.columns]


def _blocks(index: RowIndex, factors: int) -> Iterator[tuple[int, int]]:
    """Rows of whole days, as many as fit into memory for each stock that there is."""
    days = max(1, _BLOCK_BYTES // (8 * factors * len(index.instruments)))
    starts = np.flatnonzero(np.diff(index.days, prepend=index.days[0] - 1))
    edges = [*starts[::days].tolist(), len(index.days)]
    yield from pairwise(edges)


def _by_day(values: NDArray[np.float64], days: NDArray[np.int32], codes: NDArray[np.int32]) -> Any:
    _, day = np.unique(days, return_inverse=True)
    _, stock = np.unique(codes, return_inverse=True)
    cube = np.full((len(values), day.max() + 1, stock.max() + 1), np.nan)
    cube[:, day, stock] = values
    return cube


def _choose(
    parts: Sequence[Part],
    candidates: Sequence[_Candidate],
    means: NDArray[np.float64],
    same: dict[tuple[int, int], bool],
) -> tuple[list[_Candidate], list[LeftOut]]:
    """Which factors stay, under which names."""
    kept: dict[int, _Candidate] = {}
    names: set[str] = set()
    left_out = []
    for number in range(len(parts)):
        there = dict(kept)
        for place, candidate in enumerate(candidates):
            if candidate.part != number:
                continue
            found = _find_like(place, there, means, same)
            if found is None:
                kept[place] = _name_apart(candidate, parts[number].suffix, names)
                names.add(kept[place].origin.name)
                continue
            like, correlation = found
            left_out.append(
                LeftOut(
                    candidate.origin.name,
                    parts[number].label,
                    there[like].origin.name,
                    same.get((like, place), False),
                    correlation,
                )
            )
    return list(kept.values()), left_out


def _find_like(
    place: int,
    there: dict[int, _Candidate],
    means: NDArray[np.float64],
    same: dict[tuple[int, int], bool],
) -> tuple[int, float | None] | None:
    """The factor because of which one is left out, and their correlation; None for one that is to stay."""
    if not there:
        return None
    equal = [each for each in there if same.get((each, place), False)]
    if equal:
        return equal[0], None
    known = {each: means[each, place] for each in there if not np.isnan(means[each, place])}
    if not known:
        # As upstream: NaN is not below its limit.
        return next(iter(there)), None
    nearest = max(known, key=lambda each: known[each])
    return None if known[nearest] < DUPLICATE_FROM else (nearest, float(known[nearest]))


def _name_apart(candidate: _Candidate, suffix: str, taken: set[str]) -> _Candidate:
    wanted = name = candidate.origin.name
    number = 1
    while name in taken:
        name = f"{wanted}_{suffix}" if number == 1 else f"{wanted}_{suffix}_{number}"
        number += 1
    origin = candidate.origin if name == wanted else replace(candidate.origin, name=name, renamed_from=wanted)
    return replace(candidate, origin=origin)


def _write(
    parts: Sequence[Part],
    alignment: _Alignment,
    kept: Sequence[_Candidate],
    target: Path,
    about: Provenance | None,
) -> FactorTable:
    fingerprint = join_fingerprint(alignment.index, {each.origin.name: each.digest for each in kept})
    metadata: Mapping[bytes, bytes] = {}
    if about is not None:
        origins = tuple(each.origin for each in kept)
        metadata = as_metadata(replace(about, factors=origins, fingerprint=fingerprint), target)
    types = {each.origin.name: _type_of(each.column, alone=len(parts) == 1) for each in kept}
    chosen = [[each.column for each in kept if each.part == number] for number in range(len(parts))]
    with ExitStack() as stack:
        aligned = _Aligned(parts, alignment, chosen, stack)
        temporary = stack.enter_context(replace_atomically(target))

        def read(start: int, stop: int) -> Iterator[NDArray[Any]]:
            for values, dtype in zip(aligned.read(start, stop), types.values(), strict=True):
                yield values.astype(dtype, copy=False)

        write_rows(temporary, types, alignment.index, read, metadata)
        written = read_factor_table(temporary)
        if written.fingerprint != fingerprint or not written.canonical:
            raise TableError(
                "table-changed",
                f"What was written for {target} is not what was read: a table was changed meanwhile.",
                "Wait until the program that writes it is done, and try again.",
            )
        for part in parts:
            if not unchanged(part.table):
                raise _changed(part)
        size = temporary.stat()
    # Renaming changes neither size nor time of change.
    return replace(written, path=target, stat=(size.st_size, size.st_mtime_ns))


def _type_of(column: FactorColumn, *, alone: bool) -> np.dtype[Any]:
    """A column keeps its precision; whole numbers become floats where rows may be missing."""
    if alone and pa.types.is_integer(column.type):
        whole: np.dtype[Any] = np.dtype(column.type.to_pandas_dtype())
        return whole
    narrow = pa.types.is_float32(column.type) or pa.types.is_float16(column.type)
    return np.dtype(np.float32 if narrow else np.float64)


def _no_room(error: OSError) -> SotaError:
    return SotaError(
        "cannot-write",
        f"Cannot write a scratch file in {tempfile.gettempdir()}: {error.strerror or error}.",
        "It takes 8 bytes for each value. Name a folder with room by the variable TMPDIR.",
    )


def _changed(part: Part) -> TableError:
    return TableError(
        "table-changed",
        f"{part.table.path} was changed while it was being read.",
        "Wait until the program that writes it is done, and try again.",
    )

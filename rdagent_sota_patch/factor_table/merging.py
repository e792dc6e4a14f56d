"""Several factor tables as one: aligned by day and stock, near duplicates left out, names in conflict told apart."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import Problem, TableError
from rdagent_sota_patch.factor_table.alignment import (
    AlignedColumns,
    Alignment,
    Part,
    Share,
    align,
    iterate_blocks,
    table_changed,
)
from rdagent_sota_patch.factor_table.canonical import as_canonical, write_rows
from rdagent_sota_patch.factor_table.duplicates import DUPLICATE_FROM, MeanCorrelations
from rdagent_sota_patch.factor_table.fingerprint import join_fingerprint, normalize
from rdagent_sota_patch.factor_table.provenance import Provenance, as_metadata
from rdagent_sota_patch.factor_table.reading import open_parquet
from rdagent_sota_patch.factor_table.schema import FactorColumn, parse_schema
from rdagent_sota_patch.factor_table.table import read_factor_table, unchanged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.provenance import FactorOrigin
    from rdagent_sota_patch.factor_table.table import FactorTable


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
        alignment, notices = align(parts)
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


def _compare(
    parts: Sequence[Part], alignment: Alignment
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
        aligned = AlignedColumns(parts, alignment, columns, stack)
        for start, stop in iterate_blocks(index, len(owners)):
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
        raise table_changed(part)
    return [by_name[name] for name in part.columns]


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
    alignment: Alignment,
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
        aligned = AlignedColumns(parts, alignment, chosen, stack)
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
                raise table_changed(part)
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

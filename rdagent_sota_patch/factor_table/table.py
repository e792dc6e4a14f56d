"""A factor table that has been read, checked and fingerprinted: what the rest of the package works with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factor_table.checks import check_columns
from rdagent_sota_patch.factor_table.fingerprint import Coverage, CoverageCount, compute_fingerprint
from rdagent_sota_patch.factor_table.reading import open_parquet
from rdagent_sota_patch.factor_table.rows import read_rows
from rdagent_sota_patch.factor_table.schema import parse_schema

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class FactorTable:
    """A usable factor table on disk; its values stay there.

    Attributes:
        path: The parquet file.
        names: The factors, in column order.
        rows: Number of (datetime, instrument) pairs.
        start: First day.
        end: Last day.
        instruments: Number of instruments.
        fingerprint: Fingerprint of the content, as ``sha256:<hex>``.
        canonical: Whether Qlib's ``StaticDataLoader`` can read the file as it is: ("feature", name) columns,
            a sorted (datetime, instrument) index.
        stat: Size in bytes and time of change in ns when it was read.
        coverage: Its days, and what is missing on each; None for a table that was not read here.
    """

    path: Path
    names: tuple[str, ...]
    rows: int
    start: date
    end: date
    instruments: int
    fingerprint: str
    canonical: bool
    stat: tuple[int, int]
    coverage: Coverage | None = field(default=None, repr=False, compare=False)


def read_factor_table(path: Path) -> FactorTable:
    """Read and check a factor table: plain or ("feature", name) columns, (datetime, instrument) index.

    Memory stays far below the size of the table: it is read column by column, in batches.

    Raises:
        TableError: All that is wrong with it, at once.
    """
    stat = _stat(path)
    with open_parquet(path) as file:
        schema = parse_schema(file, path)
        broken = any(problem.slug == "table-unreadable" for problem in schema.problems)
        problems = [] if broken else check_columns(file, path, schema)
    if schema.rows or broken:
        # Without rows pandas stores no types, and nothing more can be said.
        problems = [*schema.problems, *problems]
    index = None
    if schema.rows and not any(problem.slug in ("table-index", "table-unreadable") for problem in problems):
        try:
            index = read_rows(path, schema)
        except TableError as error:
            problems.extend(error.problems)
    if problems or index is None:
        raise TableError.of(problems)
    count = CoverageCount(index)
    fingerprint = compute_fingerprint(path, schema, index, count)
    table = FactorTable(
        path=path,
        names=tuple(column.name for column in schema.columns),
        rows=schema.rows,
        start=index.start,
        end=index.end,
        instruments=len(index.instruments),
        fingerprint=fingerprint,
        canonical=schema.canonical and index.order is None,
        stat=stat,
        coverage=count.done(),
    )
    if not unchanged(table):
        raise TableError(
            "table-changed",
            f"{path} was changed while it was being read.",
            "Wait until the program that writes it is done, and try again.",
        )
    return table


def fingerprint_factors(table: FactorTable, name: str) -> dict[str, str]:
    """The fingerprint of each factor by itself: that of a table which has it alone, under ``name``.

    Raises:
        TableError: The table was changed meanwhile, or cannot be read any more.
    """
    with open_parquet(table.path) as file:
        schema = parse_schema(file, table.path)
    if schema.problems:
        raise TableError.of(schema.problems)
    index = read_rows(table.path, schema)
    return {
        column.name: compute_fingerprint(
            table.path, replace(schema, columns=(replace(column, name=name),)), index
        )
        for column in schema.columns
    }


def unchanged(table: FactorTable) -> bool:
    """Whether the file is, by size and time of change, still the one that was read."""
    return _stat(table.path) == table.stat


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        # Opening it says what is wrong; no file has this size.
        return (-1, -1)
    return (found.st_size, found.st_mtime_ns)

"""What can be wrong with the numbers of a factor table, and with its first and last day.

The parquet footer's statistics are used where it has them; data is read where it has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rdagent_sota_patch.errors import Problem
from rdagent_sota_patch.factor_table.reading import column_chunks, iterate_column
from rdagent_sota_patch.factor_table.schema import is_numeric

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rdagent_sota_patch.factor_table.schema import FactorColumn, TableSchema
    from rdagent_sota_patch.factor_table.segments import Segments
    from rdagent_sota_patch.factor_table.table import FactorTable

WARM_UP = timedelta(days=90)
"""Factors need history before their first value; a start later than this is not a warm-up any more."""
# A last day before the end of the test may fall on a weekend or a holiday week.
_HOLIDAYS = timedelta(days=15)
_DAY = timedelta(days=1)
# float64 tells all integers up to here apart; models and fingerprints work in float64.
_LARGEST_INTEGER = 2**53


@dataclass(frozen=True, slots=True)
class Findings:
    """How a table fits a run: ``errors`` stop it, ``notices`` are worth saying."""

    errors: tuple[Problem, ...] = ()
    notices: tuple[Problem, ...] = ()

    def __add__(self, other: Findings) -> Findings:
        return Findings((*self.errors, *other.errors), (*self.notices, *other.notices))


@dataclass(frozen=True, slots=True)
class _Extent:
    """Smallest and largest number of a column; None for both when it holds no number."""

    low: float | None
    high: float | None


def check_columns(file: Any, path: Path, schema: TableSchema) -> list[Problem]:
    """Find columns that hold nothing, or infinity, from the footer's statistics where it has them.

    Raises:
        TableError: ``table-unreadable``, when a column without statistics cannot be read.
    """
    if schema.rows == 0 or not (schema.columns or schema.problems):
        lacking = "rows" if schema.rows == 0 else "factors"
        return [
            Problem(
                "table-empty",
                f"{path}: the table has no {lacking}.",
                "Check the run or the script that wrote it.",
            )
        ]
    extents = _measure_columns(file, path, [column for column in schema.columns if is_numeric(column.type)])
    empty = [name for name, extent in extents.items() if extent.low is None]
    infinite = [name for name, extent in extents.items() if np.inf in (extent.high, -(extent.low or 0.0))]
    wide = [
        column.name
        for column in schema.columns
        if pa.types.is_integer(column.type)
        and max(extents[column.name].high or 0, -(extents[column.name].low or 0)) > _LARGEST_INTEGER
    ]
    problems = []
    if wide:
        problems.append(
            Problem(
                "table-not-numeric",
                f"{path}: integers beyond 2**53, which float64 cannot tell apart, in {', '.join(wide)}.",
                "Convert these columns with astype(float), or drop them; identifiers are no factors.",
            )
        )
    if empty:
        problems.append(
            Problem(
                "table-all-nan",
                f"{path}: no value at all in {', '.join(empty)}.",
                "Drop these columns, or correct the code that computes them.",
            )
        )
    if infinite:
        problems.append(
            Problem(
                "table-infinite",
                f"{path}: infinite values in {', '.join(infinite)}.",
                "Replace them, a division by zero most likely: df.replace([np.inf, -np.inf], np.nan).",
            )
        )
    return problems


def check_segments(table: FactorTable, segments: Segments) -> Findings:
    """Compare a table's dates with the segments that a run will use.

    No day in one of the segments is an error for that segment (``table-dates``); a segment covered only
    in part is a notice (``table-dates-partial``). A warm-up of 90 days at the start, and a gap of holidays
    at the end, are as they should be.
    """
    covered = f"{table.path} covers {table.start} to {table.end}"
    errors, notices = [], []
    for name, start, end in segments.spans():
        span = f"{start} to {end}" if end is not None else f"{start} onwards"
        if table.end < start or (end is not None and table.start > end):
            errors.append(
                Problem(
                    "table-dates",
                    f"{covered}, which has no day of the {name} segment {span}.",
                    "Compute the factors for these dates, or set the dates of the run to the factors'.",
                )
            )
            continue
        gaps = []
        # Only the first segment needs a warm-up: later ones begin inside the data.
        if table.start - start > (WARM_UP if name == "train" else _DAY):
            gaps.append(f"starts {(table.start - start).days} days late")
        if end is not None and end - table.end > _HOLIDAYS:
            gaps.append(f"ends {(end - table.end).days} days early")
        if gaps:
            notices.append(
                Problem(
                    "table-dates-partial",
                    f"{covered}; for the {name} segment {span} it {' and '.join(gaps)}.",
                    "The model sees no factor values on the other days; narrow the dates of the run.",
                )
            )
    return Findings(tuple(errors), tuple(notices))


def _measure_columns(file: Any, path: Path, columns: list[FactorColumn]) -> dict[str, _Extent]:
    leaves = {file.schema.column(leaf).path: leaf for leaf in range(len(file.schema))}
    extents = {}
    for column in columns:
        extent = _read_statistics(column_chunks(file, path, leaves[column.field]))
        extents[column.name] = extent if extent is not None else _measure(file, path, column)
    return extents


def _read_statistics(chunks: Iterable[Any]) -> _Extent | None:
    """Extent by the footer; None when it does not say."""
    lows, highs = [], []
    for chunk in chunks:
        statistics = chunk.statistics
        if statistics is None:
            return None
        if statistics.has_null_count and statistics.null_count == chunk.num_values:
            continue
        # NaN that is stored as a number has no place in minimum and maximum.
        if not statistics.has_min_max or not isinstance(statistics.min, int | float):
            return None
        if math.isnan(statistics.min) or math.isnan(statistics.max):
            return None
        lows.append(statistics.min)
        highs.append(statistics.max)
    return _Extent(min(lows, default=None), max(highs, default=None))


def _measure(file: Any, path: Path, column: FactorColumn) -> _Extent:
    lows, highs = [], []
    for array in iterate_column(file, path, column.field):
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = values[~np.isnan(values)]
        if len(values):
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return _Extent(min(lows, default=None), max(highs, default=None))

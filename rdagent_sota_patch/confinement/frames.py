"""Read the tables that come out of the jail: nothing but numbers and JSON, checked before use.

A file holds arrays one after another in NumPy's own format: a header (JSON, as bytes), the days, and, where
it has values, for each row the position of its day and of its instrument, and the columns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

_NAMES = ["datetime", "instrument"]


class Unreadable(Exception):
    """A file from the jail is not a table; the text says why, without naming a file."""


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    columns: list[str]
    instruments: list[str]
    rows: int


class _Fault(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fault: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What a table is about: its days in order, its instruments, its columns, its number of rows."""

    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int


def read_outline(path: Path) -> Outline:
    """Days, instruments and columns of a table from the jail.

    Raises:
        Unreadable: It is no table, or the program inside said what is wrong with it.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        days = _read_days(file)
    return Outline(days, tuple(header.instruments), tuple(header.columns), header.rows)


def read_frame(path: Path) -> pd.DataFrame:
    """A table from the jail: index datetime and instrument, rows and dtypes as they were inside.

    Raises:
        Unreadable: It is no table, or the program inside said what is wrong with it.
    """
    with path.open("rb") as file:
        header = _read_header(file)
        days = _read_days(file)
        codes = [_read_array(file, "i", header.rows) for _ in range(2)]
        columns = [_read_array(file, "fiub", header.rows) for _ in header.columns]
    levels = [days, pd.Index(header.instruments)]
    for level, positions in zip(levels, codes, strict=True):
        if header.rows and not 0 <= positions.min() <= positions.max() < len(level):
            raise Unreadable("a row names a day or an instrument that is not there")
    if not all(level.is_unique for level in levels):
        raise Unreadable("a day or an instrument is listed twice")
    index = pd.MultiIndex(levels=levels, codes=codes, names=_NAMES)  # type: ignore[arg-type]
    frame: pd.DataFrame = pd.DataFrame(dict(enumerate(columns)), index=index, copy=False)
    frame.columns = pd.Index(header.columns)
    return frame


def _read_header(file: IO[bytes]) -> _Header:
    text = _read_array(file, "u").tobytes()
    try:
        fields = json.loads(text)
        if isinstance(fields, dict) and "fault" in fields:
            raise Unreadable(_Fault.model_validate(fields).fault)
        return _Header.model_validate(fields)
    except (ValueError, ValidationError) as error:
        raise Unreadable(f"its header cannot be read: {error}") from error


def _read_days(file: IO[bytes]) -> pd.DatetimeIndex:
    days: pd.DatetimeIndex = pd.DatetimeIndex(_read_array(file, "M"))
    if days.hasnans or not days.is_monotonic_increasing:
        raise Unreadable("its days are not in order")
    return days


def _read_array(file: IO[bytes], kinds: str, rows: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        # Not `numpy.load`, which takes other formats for an answer, compressed ones and pickles among them.
        array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise Unreadable(f"it ends early or is damaged: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim != 1:
        raise Unreadable("it holds something else than expected")
    if rows is not None and len(array) != rows:
        raise Unreadable(f"a column has {len(array)} rows, not {rows}")
    return array

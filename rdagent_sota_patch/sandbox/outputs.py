"""Read the tables that come out of the jail: nothing but numbers and JSON, checked before use.

A file holds arrays one after another in NumPy's own format: a header (JSON, as bytes), the days, and, where
it has values, for each row the position of its day and of its instrument, and the columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

_NAMES = ["datetime", "instrument"]
_LARGEST_HEADER = 16 * 1024 * 1024
_LARGEST_ARRAY = 1 << 30
_Form = TypeVar("_Form", bound=BaseModel)


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


class _FileHeader(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    fault: str = ""
    columns: list[str] = []
    instruments: list[str] = []
    rows: int = 0
    dated: bool = False
    presence: bool = False


class _Survey(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    files: list[_FileHeader]


@dataclass(frozen=True, slots=True, eq=False)
class SurveyedFile:
    """What a table of a data folder is about.

    Attributes:
        days: In order; None for a table without dates.
        instruments: Sorted; none where it names no stocks.
        columns: Without those of its index.
        fault: Why it cannot be used; empty otherwise.
    """

    name: str
    days: pd.DatetimeIndex | None
    instruments: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    fault: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Presence:
    """Who was traded when, of ``daily_pv.h5``.

    Attributes:
        complete: By day and stock, both sorted: whether it has every number.
        traded: Likewise, whether it was traded; see `inside._were_traded`.
    """

    complete: np.ndarray[Any, np.dtype[np.bool_]]
    traded: np.ndarray[Any, np.dtype[np.bool_]]


def read_survey(path: Path, names: Sequence[str]) -> tuple[dict[str, SurveyedFile], Presence]:
    """What a survey found of each file, and of the first who was traded when.

    Raises:
        Unreadable: It is not a survey of these files.
    """
    presence = Presence(*(np.empty((0, 0), dtype=bool),) * 2)
    found: dict[str, SurveyedFile] = {}
    with path.open("rb") as file:
        survey = _read_header(file, _Survey)
        for header in survey.files:
            days = _read_days(file) if header.dated else None
            if days is not None and header.presence:
                shape = len(days), len(header.instruments)
                presence = Presence(_read_bits(file, *shape), _read_bits(file, *shape))
            found[header.name] = SurveyedFile(
                header.name,
                days,
                tuple(header.instruments),
                tuple(header.columns),
                header.rows,
                header.fault,
            )
    if list(found) != list(names):
        raise Unreadable("it tells of other files than those asked for")
    return found, presence


def read_frame(path: Path, *, most: int | None = None) -> pd.DataFrame:
    """A table from the jail: index datetime and instrument, rows and dtypes as they were inside.

    Args:
        path: What the program left.
        most: How many bytes of a stranger's are read; None for a table of the user's own.

    Raises:
        Unreadable: It is not a table, or larger, or the program inside said what is wrong with it.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise Unreadable(f"it takes {size:,} bytes, and {most:,} are read of a result on such data")
        header = _read_header(file, _Header)
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


def _read_header(file: IO[bytes], form: type[_Form]) -> _Form:
    text = _read_array(file, "u", most=_LARGEST_HEADER).tobytes()
    try:
        fields = json.loads(text)
        if isinstance(fields, dict) and "fault" in fields:
            raise Unreadable(_Fault.model_validate(fields).fault)
        return form.model_validate(fields)
    except (ValueError, ValidationError, RecursionError) as error:
        raise Unreadable(f"its header cannot be read: {error}") from error


def _read_days(file: IO[bytes]) -> pd.DatetimeIndex:
    days: pd.DatetimeIndex = pd.DatetimeIndex(_read_array(file, "M"))
    if days.hasnans or not days.is_monotonic_increasing:
        raise Unreadable("its days are not in order")
    return days


def _read_bits(file: IO[bytes], rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    bits = np.unpackbits(_read_array(file, "u", -(-rows * columns // 8)), count=rows * columns)
    return bits.reshape(rows, columns).astype(bool)


def _read_array(
    file: IO[bytes], kinds: str, rows: int | None = None, *, most: int = _LARGEST_ARRAY
) -> np.ndarray[Any, np.dtype[Any]]:
    """The next array, of one dimension and at most so many bytes; judged before anything of its size is allocated."""
    try:
        # Not `numpy.load`, which takes other formats for an answer, compressed ones and pickles among them.
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"its format is {version}")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, KeyError, EOFError, OSError, MemoryError, RecursionError) as error:
        raise Unreadable(f"it ends early or is damaged: {error}") from error
    if dtype.kind not in kinds or len(shape) != 1 or dtype.hasobject:
        raise Unreadable("it is damaged, or holds something else than expected")
    (count,) = shape
    if rows is not None and count != rows:
        raise Unreadable(f"a column has {count} rows, not {rows}")
    size = count * dtype.itemsize
    if size > most:
        raise Unreadable(f"it is larger than what is read of a stranger's: {size:,} bytes at one go")
    if not 0 <= size <= os.fstat(file.fileno()).st_size - file.tell():
        raise Unreadable("it ends early or is damaged: there is less than it says")
    return np.fromfile(file, dtype=dtype, count=count)

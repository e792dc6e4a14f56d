"""Read the tables that come out of the jail: nothing but numbers and JSON, checked before use.

A file holds arrays one after another in NumPy's own format: a header (JSON, as bytes), the days, and, where
it has values, for each row the position of its day and of its instrument, and the columns.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

_NAMES = ["datetime", "instrument"]
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
        lacking: By day, the number of stocks without data that have some on a later day.
        complete: By day and stock, both sorted: whether it has every number.
        traded: Likewise, whether it was traded; see `inside._were_traded`.
    """

    lacking: np.ndarray[Any, np.dtype[np.int64]]
    complete: np.ndarray[Any, np.dtype[np.bool_]]
    traded: np.ndarray[Any, np.dtype[np.bool_]]


def read_survey(path: Path, names: Sequence[str]) -> tuple[dict[str, SurveyedFile], Presence]:
    """What a survey found of each file, and of the first who was traded when.

    Raises:
        Unreadable: It is no survey of these files.
    """
    presence = Presence(np.empty(0, dtype=np.int64), *(np.empty((0, 0), dtype=bool),) * 2)
    found: dict[str, SurveyedFile] = {}
    with path.open("rb") as file:
        survey = _read_header(file, _Survey)
        for header in survey.files:
            days = _read_days(file) if header.dated else None
            if days is not None and header.presence:
                shape = len(days), len(header.instruments)
                lacking = _read_array(file, "i", shape[0])
                presence = Presence(lacking, _read_bits(file, *shape), _read_bits(file, *shape))
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


def read_frame(path: Path) -> pd.DataFrame:
    """A table from the jail: index datetime and instrument, rows and dtypes as they were inside.

    Raises:
        Unreadable: It is no table, or the program inside said what is wrong with it.
    """
    with path.open("rb") as file:
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
    text = _read_array(file, "u").tobytes()
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


def _require_length(file: IO[bytes]) -> None:
    """See that an array is as long as it says: NumPy makes room for all of it before it reads."""
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(file)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > left:
        raise ValueError(f"an array of {dtype} and shape {shape} in {left} bytes")
    file.seek(start)


def _read_bits(file: IO[bytes], rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    bits = np.unpackbits(_read_array(file, "u", -(-rows * columns // 8)), count=rows * columns)
    return bits.reshape(rows, columns).astype(bool)


def _read_array(file: IO[bytes], kinds: str, rows: int | None = None) -> np.ndarray[Any, np.dtype[Any]]:
    try:
        _require_length(file)
        # Not `numpy.load`, which takes other formats for an answer, compressed ones and pickles among them.
        array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, KeyError, EOFError, OSError, MemoryError) as error:
        raise Unreadable(f"it ends early or is damaged: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kinds or array.ndim != 1:
        raise Unreadable("it holds something else than expected")
    if rows is not None and len(array) != rows:
        raise Unreadable(f"a column has {len(array)} rows, not {rows}")
    return array

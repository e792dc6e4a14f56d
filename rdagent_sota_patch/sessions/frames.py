"""Turn stand-ins for numpy arrays, pandas indexes and frames into real ones, by exact rules.

As in `thaw`: judge what the stand-in kept, construct afterwards, refuse what no rule knows. The layouts are
those that pandas 2 and 3 and numpy 1 and 2 write; blocks of pandas' own extension types are none of them.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import (
    ARROW_STRINGS,
    BACKED_ARRAY,
    FROM_BUFFER,
    INDEXES,
    NEW_INDEX,
    RECONSTRUCT,
    SERIES,
    SERIES_MANAGER,
    Unthawable,
    describe,
    thaw_arrow_strings,
    thaw_bytes,
    thaw_dtype,
    thaw_plain,
)

_FRAMES = frozenset({("pandas.core.frame", "DataFrame"), ("pandas", "DataFrame")})
_BLOCK_MANAGER = ("pandas.core.internals.managers", "BlockManager")
_BLOCK = ("pandas._libs.internals", "_unpickle_block")
_MULTI_INDEXES = frozenset({("pandas.core.indexes.multi", "MultiIndex"), ("pandas", "MultiIndex")})
_RANGE_INDEXES = frozenset({("pandas.core.indexes.range", "RangeIndex"), ("pandas", "RangeIndex")})
_NEW_DAY_INDEX = ("pandas.core.indexes.datetimes", "_new_DatetimeIndex")
_DAY_INDEXES = frozenset({("pandas.core.indexes.datetimes", "DatetimeIndex"), ("pandas", "DatetimeIndex")})
_STRING_DTYPE = frozenset({("pandas", "StringDtype"), ("pandas.core.arrays.string_", "StringDtype")})

_NUMBERS = re.compile(r"f[248]|[iu][1248]|b1")
_TEXT = re.compile(r"U[0-9]{1,4}")
_TIME_UNITS = frozenset({b"s", b"ms", b"us", b"ns"})


def thaw_array(value: object) -> np.ndarray[Any, Any]:
    """A numpy array of numbers, truth values, text, times, or of objects that are plain data.

    Raises:
        Unthawable: It is anything else, or its bytes do not fit its shape.
    """
    match value:
        case Inert(state=(1, tuple() as shape, Inert() as dtype, bool() as fortran, data)) if (
            value.origin in RECONSTRUCT
        ):
            return _array(data, dtype, shape, "F" if fortran else "C")
        case Inert(arguments=(data, Inert() as dtype, tuple() as shape, "C" | "F" as order)) if (
            value.origin in FROM_BUFFER
        ):
            return _array(data, dtype, shape, order)
    raise Unthawable(f"an array in an unknown form: {describe(value)}")


def thaw_index(value: object) -> pd.Index:
    """A pandas index with its names: of numbers or text, of days, of a range, or of several levels.

    Raises:
        Unthawable: It is anything else.
    """
    match value:
        case Inert(origin=origin, arguments=(type() as cls, dict() as given)) if origin in (
            NEW_INDEX,
            _NEW_DAY_INDEX,
        ):
            pass
        case _:
            raise Unthawable(f"an index in an unknown form: {describe(value)}")
    wanted = getattr(cls, "origin", None)
    try:
        match given:
            case {"levels": list() as levels, "codes": list() as codes, "names": list() as names} if (
                wanted in _MULTI_INDEXES
            ):
                parts: dict[str, Any] = {
                    "levels": [_level(level) for level in levels],
                    "codes": [_whole_numbers(code) for code in codes],
                    "names": [_name(name) for name in names],
                }
                index: pd.Index = pd.MultiIndex(**parts)
            case {"data": data} if wanted in _DAY_INDEXES and origin == _NEW_DAY_INDEX:
                index = pd.DatetimeIndex(_days(data), name=_name(given.get("name")))
            case {"start": int() as start, "stop": int() as stop, "step": int() as step} if (
                wanted in _RANGE_INDEXES
            ):
                index = pd.RangeIndex(start, stop, step, name=_name(given.get("name")))
            case {"data": data} if wanted in INDEXES:
                index = pd.Index(_labels(data), name=_name(given.get("name")))
            case _:
                raise Unthawable(f"an index of an unknown class: {describe(value)}")
    except Unthawable:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise Unthawable(f"a damaged index: {error}") from None
    return index


def _level(value: object) -> pd.Index:
    """A level has no levels itself; pickled so a thousand deep, it would end in a RecursionError."""
    match value:
        case Inert(arguments=(type() as cls, *_)) if getattr(cls, "origin", None) in _MULTI_INDEXES:
            raise Unthawable("an index whose levels have levels")
    return thaw_index(value)


def thaw_frame(value: object) -> pd.DataFrame:
    """A DataFrame of numbers; every column keeps its dtype.

    Raises:
        Unthawable: It is anything else.
    """
    manager = value.attributes.get("_mgr") if isinstance(value, Inert) and value.origin in _FRAMES else None
    match manager:
        case Inert(arguments=(tuple() as blocks, list() as axes)) if (
            manager.origin == _BLOCK_MANAGER and len(axes) == 2
        ):
            columns, index = map(thaw_index, axes)
        case _:
            raise Unthawable(f"a frame in an unknown form: {describe(value)}")
    filled: dict[int, np.ndarray[Any, Any]] = {}
    for block in blocks:
        match block:
            case Inert(arguments=(values, placement, 2)) if block.origin == _BLOCK:
                rows = thaw_array(values)
                places = _placement(placement, len(columns))
            case _:
                raise Unthawable(f"a block in an unknown form: {describe(block)}")
        if rows.shape != (len(places), len(index)) or rows.dtype.kind not in "fiub":
            raise Unthawable(f"a block of {rows.dtype} and shape {rows.shape} for {len(index)} rows")
        filled.update(zip(places, rows, strict=True))
    if sorted(filled) != list(range(len(columns))):
        raise Unthawable(f"a frame with {len(filled)} of {len(columns)} columns")
    frame: pd.DataFrame = pd.DataFrame({place: filled[place] for place in range(len(columns))}, index=index)
    frame.columns = columns
    return frame


def thaw_series(value: object) -> pd.Series[Any]:
    """A Series of numbers with its index; its name is left out.

    Raises:
        Unthawable: It is anything else.
    """
    manager = value.attributes.get("_mgr") if isinstance(value, Inert) and value.origin in SERIES else None
    match manager:
        # (axes, block values, block items, {"0.14.1": ...}); pandas keeps the first three for old readers.
        case Inert(state=(_, _, _, {"0.14.1": {"axes": [axis], "blocks": [{"values": values}]}})) if (
            manager.origin == SERIES_MANAGER
        ):
            index, numbers = thaw_index(axis), thaw_array(values)
        case _:
            raise Unthawable(f"a Series in an unknown form: {describe(value)}")
    if numbers.shape != (len(index),) or numbers.dtype.kind not in "fiub":
        raise Unthawable(f"a Series of {numbers.dtype} and shape {numbers.shape} for {len(index)} rows")
    series: pd.Series[Any] = pd.Series(numbers, index=index)
    return series


def _array(data: object, dtype: Inert, shape: tuple[Any, ...], order: Any) -> np.ndarray[Any, Any]:
    if any(type(length) is not int or length < 0 for length in shape):
        raise Unthawable("an array whose shape is not one")
    code, byte_order = thaw_dtype(dtype)
    count = math.prod(shape)
    if code == "O8" and isinstance(data, list) and len(data) == count:
        objects = np.empty(count, dtype=object)
        objects[:] = [thaw_plain(item) for item in data]
        return objects.reshape(shape, order=order)
    if code == "M8":
        made = np.dtype(f"{byte_order}M8[{_time_unit(dtype)}]")
    elif _NUMBERS.fullmatch(code) or _TEXT.fullmatch(code):
        made = np.dtype(byte_order + code)
    else:
        raise Unthawable(f"an array of {code[:20]}")
    raw = thaw_bytes(data)
    if len(raw) != count * made.itemsize:
        raise Unthawable(f"an array of {code}, {count} long, in {len(raw)} bytes")
    # A copy: what lies in a bytes object can never be written to.
    array: np.ndarray[Any, Any] = np.frombuffer(raw, dtype=made).reshape(shape, order=order).copy(order="K")
    return array


def _time_unit(dtype: Inert) -> str:
    match dtype.state:
        case (4, _, None, None, None, _, _, _, (_, (bytes() as unit, 1, 1, 1))) if unit in _TIME_UNITS:
            return unit.decode()
    raise Unthawable("a time in an unknown unit")


def _labels(data: object) -> Any:
    match data:
        case Inert() if data.origin in ARROW_STRINGS:
            # As objects: pandas 2 and 3 then decide for themselves how to hold text.
            return np.array(thaw_arrow_strings(data.attributes.get("_pa_array")), dtype=object)
        case Inert(state=(Inert() as dtype, backing, *_)) if (
            data.origin == BACKED_ARRAY and dtype.origin in _STRING_DTYPE
        ):
            return thaw_array(backing)
    labels = thaw_array(data)
    if labels.ndim != 1:
        raise Unthawable(f"an index of {labels.ndim} dimensions")
    return labels


def _days(data: object) -> np.ndarray[Any, Any]:
    match data:
        case Inert(state=(Inert(origin=("numpy", "dtype")), backing, *_)) if data.origin == BACKED_ARRAY:
            data = backing
    days = thaw_array(data)
    if days.dtype.kind != "M" or days.ndim != 1:
        raise Unthawable(f"days of type {days.dtype}")
    return days


def _whole_numbers(value: object) -> np.ndarray[Any, Any]:
    numbers = thaw_array(value)
    if numbers.dtype.kind != "i" or numbers.ndim != 1:
        raise Unthawable(f"codes of type {numbers.dtype}")
    return numbers


def _name(value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    raise Unthawable(f"a name that is not text: {describe(value)}")


def _placement(value: object, columns: int) -> list[int]:
    match value:
        case Inert(
            origin=("builtins", "slice"), arguments=(int() as start, int() as stop, int() as step)
        ) if step > 0 and start >= 0 and stop <= columns:
            return list(range(start, stop, step))
        case Inert():
            return [int(place) for place in _whole_numbers(value)]
    raise Unthawable(f"columns in an unknown form: {describe(value)}")

"""Turn the few stand-ins that matter into values: paths, dates, numbers and a metrics Series.

Each rule is for one exact (module, name), and checks what the stand-in kept before it makes anything.
What no rule knows is refused, never guessed. pandas and numpy are not needed: the layouts below are
those that pandas 2 and 3 and numpy 1 and 2 write.
"""

from __future__ import annotations

import datetime as dt
import struct
from itertools import pairwise
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

from rdagent_sota_patch.sessions.inert import Inert

_DEEPEST = 32
_MOST_VALUES = 100_000

_PATHS: dict[tuple[str, str], type[PurePath]] = {
    # Python 3.13 pickles the private module's name.
    (module, f"{prefix}{flavour}Path"): {"Posix": PurePosixPath, "Windows": PureWindowsPath}[flavour]
    for module in ("pathlib", "pathlib._local")
    for prefix in ("", "Pure")
    for flavour in ("Posix", "Windows")
}
SERIES = frozenset({("pandas.core.series", "Series"), ("pandas", "Series")})
SERIES_MANAGER = ("pandas.core.internals.managers", "SingleBlockManager")
NEW_INDEX = ("pandas.core.indexes.base", "_new_Index")
INDEXES = frozenset({("pandas.core.indexes.base", "Index"), ("pandas", "Index")})
ARROW_STRINGS = frozenset({("pandas.arrays", "ArrowStringArray")})
BACKED_ARRAY = ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
_ARROW_OFFSETS = {"string": "i", "large_string": "q"}
RECONSTRUCT = frozenset(
    {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
)
FROM_BUFFER = frozenset({("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")})
_SCALAR = frozenset({("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar")})
_FORMATS = {
    "f8": "d", "f4": "f", "f2": "e", "b1": "?",
    "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u2": "H", "u1": "B",
}  # fmt: skip


class Unthawable(ValueError):
    """A stand-in that no rule knows how to turn into a value."""


def thaw_path(value: object) -> PurePath:
    """A recorded path in the spelling of the system that wrote it, or a plain string as such.

    Raises:
        Unthawable: It is neither.
    """
    if isinstance(value, str):
        windows = (len(value) > 1 and value[1] == ":") or value.startswith("\\\\")
        return PureWindowsPath(value) if windows else PurePosixPath(value)
    if isinstance(value, Inert) and value.origin in _PATHS and all(type(p) is str for p in value.arguments):
        return _PATHS[value.origin](*value.arguments)
    raise Unthawable(f"not a path: {describe(value)}")


def thaw_bool(value: object) -> bool:
    """A plain or numpy bool.

    Raises:
        Unthawable: It is anything else, also a number or a text.
    """
    if isinstance(value, Inert) and value.origin in _SCALAR:
        value = _scalar(value)
    if isinstance(value, bool):
        return value
    raise Unthawable(f"not true or false: {describe(value)}")


def thaw_plain(value: object) -> Any:
    """Plain data (what JSON knows, bytes and tuples besides) with paths, dates and numpy scalars in it.

    Raises:
        Unthawable: It holds anything else, or nests or repeats without end.
    """
    return _Plain().thaw(value, 0)


def thaw_json(value: object) -> Any:
    """Plain data in JSON's types: texts as keys, and neither bytes nor paths nor dates.

    Raises:
        Unthawable: It holds anything else, or nests or repeats without end.
    """
    plain = thaw_plain(value)
    waiting = [plain]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if not all(isinstance(key, str) for key in one):
                raise Unthawable("keys that are not texts")
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif one is not None and not isinstance(one, (str, int, float)):
            raise Unthawable(f"not of JSON's types: {describe(one)}")
    return plain


def thaw_metrics(value: object) -> dict[str, float]:
    """Metrics by name, from the pandas Series that ``QlibFBWorkspace.execute`` returns, or a dict.

    Raises:
        Unthawable: It is neither, or holds anything but names and numbers.
    """
    if value is None:
        return {}
    if isinstance(value, dict):
        names, values = list(value), [thaw_plain(item) for item in value.values()]
    elif isinstance(value, Inert) and value.origin in SERIES:
        names, values = _series(value)
    else:
        raise Unthawable(f"metrics in an unknown form: {describe(value)}")
    metrics = {}
    for name, number in zip(names, values, strict=True):
        if type(name) is not str or not isinstance(number, (int, float)):
            raise Unthawable(f"metrics that are not numbers by name: {describe(name)}: {describe(number)}")
        try:
            metrics[name] = float(number)
        except OverflowError:
            raise Unthawable(f"metric {name[:50]} is too large for a float") from None
    return metrics


def describe(value: object) -> str:
    """What a value is, for a message; short whatever the file holds."""
    if isinstance(value, Inert):
        return value.title
    return type(value).__name__


def is_number(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number of 64 bits at most: longer ones may be neither written out nor read in JSON."""
    return type(value) is int and value.bit_length() < 64


class _Plain:
    """One walk over plain data, counting what it makes: shared parts multiply when written out."""

    def __init__(self) -> None:
        self.made = 0

    def thaw(self, value: object, depth: int) -> Any:
        self.made += 1
        if depth > _DEEPEST or self.made > _MOST_VALUES:
            raise Unthawable(f"more than {_DEEPEST} levels or {_MOST_VALUES:,} values of plain data")
        if type(value) is int and not is_number(value):
            raise Unthawable("a whole number of more than 64 bits")
        if value is None or isinstance(value, (str, bool, int, float, bytes)):
            return value
        if isinstance(value, (list, tuple)):
            return type(value)(self.thaw(item, depth + 1) for item in value)
        if isinstance(value, dict):
            try:
                return {self.thaw(key, depth + 1): self.thaw(item, depth + 1) for key, item in value.items()}
            except TypeError:
                raise Unthawable("keys that cannot be keys") from None
        if isinstance(value, Inert):
            if value.origin in _PATHS:
                return thaw_path(value)
            if value.origin in _SCALAR:
                return _scalar(value)
            if value.origin[0] == "datetime":
                return _moment(value)
        raise Unthawable(f"not plain data: {describe(value)}")


def _moment(value: Inert) -> object:
    arguments = value.arguments
    match value.origin[1], arguments:
        case "timedelta", (int(), int(), int()):
            made: type[Any] = dt.timedelta
        case "timezone", (Inert(origin=("datetime", "timedelta")) as offset,):
            made, arguments = dt.timezone, (_moment(offset),)
        case "date", (bytes(),):
            made = dt.date
        case "datetime", (bytes(),):
            made = dt.datetime
        case "datetime", (bytes() as packed, Inert(origin=("datetime", "timezone")) as zone):
            made, arguments = dt.datetime, (packed, _moment(zone))
        case _:
            raise Unthawable(f"a date or time in an unknown form: {describe(value)}")
    try:
        return made(*arguments)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unthawable(f"not a date or time: {error}") from None


def _series(series: Inert) -> tuple[list[Any], list[Any]]:
    manager = series.attributes.get("_mgr")
    if not isinstance(manager, Inert) or manager.origin != SERIES_MANAGER:
        raise Unthawable(f"a Series in an unknown form: {describe(manager)}")
    # (axes, block values, block items, {"0.14.1": ...}); pandas keeps the first three for old readers.
    match manager.state:
        case (_, _, _, {"0.14.1": {"axes": [axis], "blocks": [{"values": values}]}}):
            return _index(axis), _array(values)
    raise Unthawable("a Series that is not one block")


def _index(index: object) -> list[Any]:
    match index:
        case Inert(arguments=(type() as cls, {"data": data})) if (
            index.origin == NEW_INDEX and getattr(cls, "origin", None) in INDEXES
        ):
            return _array(data)
    raise Unthawable(f"an index in an unknown form: {describe(index)}")


def _array(array: object) -> list[Any]:
    if isinstance(array, Inert):
        if array.origin in RECONSTRUCT:
            match array.state:
                case (1, (int() as length,), Inert() as dtype, _, data):
                    return _elements(data, dtype, length)
        elif array.origin in FROM_BUFFER:
            match array.arguments:
                case (data, Inert() as dtype, (int() as length,), *_):
                    return _elements(data, dtype, length)
        elif array.origin in ARROW_STRINGS:
            return thaw_arrow_strings(array.attributes.get("_pa_array"))
        elif array.origin == BACKED_ARRAY:
            match array.state:
                # Backed by itself, a thousand deep, it would end in a RecursionError.
                case (Inert(origin=("pandas", "StringDtype")), Inert() as backing, *_) if (
                    backing.origin != BACKED_ARRAY
                ):
                    return _array(backing)
    raise Unthawable(f"an array in an unknown form: {describe(array)}")


def _elements(data: object, dtype: Inert, length: int) -> list[Any]:
    code, order = thaw_dtype(dtype)
    if code == "O8" and isinstance(data, list) and len(data) == length:
        return [thaw_plain(item) for item in data]
    raw = thaw_bytes(data)
    if code in _FORMATS and length >= 0 and length * int(code[1]) == len(raw):
        return list(struct.unpack(f"{order}{length}{_FORMATS[code]}", raw))
    raise Unthawable(f"an array of {code}, {length} long, in {len(raw)} bytes")


def thaw_dtype(dtype: object) -> tuple[str, str]:
    """Type code of a numpy dtype such as ``f8``, and byte order as `struct` spells it.

    Raises:
        Unthawable: It is none.
    """
    match dtype:
        case Inert(origin=("numpy", "dtype"), arguments=(str() as code, *_), state=(_, str() as order, *_)):
            return code, ">" if order == ">" else "<"
    raise Unthawable(f"a dtype in an unknown form: {describe(dtype)}")


def _scalar(value: Inert) -> Any:
    match value.arguments:
        case (Inert() as dtype, bytes() as raw):
            code, order = thaw_dtype(dtype)
            if code.startswith("U"):
                try:
                    return raw.decode("utf-32-le" if order == "<" else "utf-32-be").rstrip("\0")
                except UnicodeDecodeError:
                    raise Unthawable("a numpy string that is not UTF-32") from None
            return _elements(raw, dtype, 1)[0]
    raise Unthawable(f"a scalar in an unknown form: {describe(value)}")


def thaw_arrow_strings(array: object) -> list[Any]:
    """Strings from ``(type, length, nulls, offset, [validity, offsets, data], children, dictionary)``.

    Raises:
        Unthawable: It is anything else, or some are missing.
    """
    match array:
        case Inert(
            origin=("pyarrow.lib", "_restore_array"),
            arguments=(
                (
                    Inert(origin=("pyarrow.lib", "type_for_alias"), arguments=(str() as alias,)),
                    int() as length,
                    0,
                    int() as offset,
                    [_, offsets, data],
                    [],
                    None,
                ),
            ),
        ) if alias in _ARROW_OFFSETS:
            code = _ARROW_OFFSETS[alias]
            try:
                bounds = struct.unpack_from(
                    f"<{length + 1}{code}", _arrow_buffer(offsets), offset * struct.calcsize(code)
                )
                text = _arrow_buffer(data)
                return [text[a:b].decode() for a, b in pairwise(bounds)]
            except (struct.error, UnicodeDecodeError) as error:
                raise Unthawable(f"damaged arrow strings: {error}") from None
    raise Unthawable(f"arrow strings in an unknown form: {describe(array)}")


def _arrow_buffer(buffer: object) -> bytes:
    match buffer:
        case None:
            return b""
        case Inert(origin=("pyarrow.lib", "py_buffer"), arguments=(data,)):
            return thaw_bytes(data)
    raise Unthawable(f"an arrow buffer in an unknown form: {describe(buffer)}")


def thaw_bytes(data: object) -> bytes:
    """The bytes of a bytes object or a bytearray.

    Raises:
        Unthawable: It is neither.
    """
    match data:
        case bytes() | bytearray():
            return bytes(data)
        # Protocol 4 has no opcode for a bytearray.
        case Inert(origin=("builtins", "bytearray"), arguments=(bytes() as raw,)):
            return raw
        case Inert(origin=("builtins", "bytearray"), arguments=()):
            return b""
    raise Unthawable(f"not bytes: {describe(data)}")

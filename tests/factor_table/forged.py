"""Parquet files of any pages and footers, written byte for byte: what no writer makes and a stranger may send."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

INT32, INT64, DOUBLE, BYTE_ARRAY = 1, 2, 5, 6
UTF8 = 0
MICROS = -1
"""Moments without a zone, which only the newer description of types can tell."""
PLAIN, RLE, DELTA_LENGTH_BYTE_ARRAY, DELTA_BYTE_ARRAY, RLE_DICTIONARY = 0, 3, 6, 7, 8
CODECS = {"uncompressed": 0, "snappy": 1, "gzip": 2, "brotli": 4, "zstd": 6}
_I32, _I64, _BINARY, _LIST, _STRUCT, _FALSE = 5, 6, 8, 9, 12, 2


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        values: How many its header promises.
        data: What it holds, not compressed.
        encoding: Of its values.
        kind: 0 for data, 2 for a dictionary, 3 for data of the second version.
        size: The uncompressed size that its header promises; that of ``data`` by default.
        packed: Its bytes as stored; ``data`` compressed by default.
    """

    values: int
    data: bytes = b""
    encoding: int = PLAIN
    kind: int = 0
    size: int | None = None
    packed: bytes | None = None


@dataclass(frozen=True)
class Column:
    """One column of one row group, of required values."""

    name: str
    type: int
    pages: Sequence[Page]
    logical: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def number(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def signed(value: int) -> bytes:
    """A zigzag varint."""
    return number((value << 1) ^ (value >> 63))


def texts(values: Sequence[str]) -> bytes:
    """Texts as PLAIN has them."""
    return b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in values)


def same_index(rows: int, width: int = 1) -> bytes:
    """So many times the first entry of a dictionary, run-length encoded."""
    return bytes([width]) + number(rows << 1) + bytes((width + 7) // 8)


def deltas(first: int, rows: int, step: int = 0) -> bytes:
    """A line of integers, as DELTA_BINARY_PACKED has it."""
    blocks = -(-(rows - 1) // 128)
    return number(128) + number(4) + number(rows) + signed(first) + (signed(step) + bytes(4)) * blocks


def one_name_again(name: str, rows: int) -> bytes:
    """A name in each row, as DELTA_BYTE_ARRAY has it: once in full, and after it as what is the same as before."""
    size = len(name)
    # Of the prefixes: 0 and then size; of what follows them: size and then 0.
    return _two(0, size, rows) + _two(size, 0, rows) + name.encode()


def _two(first: int, others: int, rows: int) -> bytes:
    """One number and then another again and again, as DELTA_BINARY_PACKED has it, in blocks of 128."""
    step = others - first
    low = min(step, 0)
    bits = (abs(step)).bit_length()
    out = number(128) + number(4) + number(rows) + signed(first)
    for block in range(-(-(rows - 1) // 128)):
        if block:
            out += signed(0) + bytes(4)
            continue
        # The first is `step` and those after it 0; each is stored as what it is above the lowest.
        packed = sum(
            ((step if place == 0 else 0) - low) << (place * bits) for place in range(min(32, rows - 1))
        )
        if low == 0:
            out += signed(0) + bytes([bits, 0, 0, 0]) + packed.to_bytes(bits * 4, "little")
        else:
            rest = [sum(-low << (place * bits) for place in range(32)).to_bytes(bits * 4, "little")] * 3
            out += signed(low) + bytes([bits] * 4) + packed.to_bytes(bits * 4, "little") + b"".join(rest)
    return out


def write(
    path: Path,
    columns: Sequence[Column],
    rows: int,
    *,
    codec: str = "zstd",
    groups: int = 1,
    padding: int = 0,
    change: Callable[[dict[int, Any]], None] | None = None,
) -> Path:
    """Write a file whose row groups are all alike, behind bytes that belong to nothing.

    ``change`` may alter what the footer says of a column.
    """
    data = bytearray(b"PAR1" + bytes(padding))
    described = [_group(data, columns, rows, codec, change) for _ in range(groups)]
    schema = [_record({4: ("root"), 5: _Short(len(columns))})]
    for column in columns:
        entry: dict[int, Any] = {1: _Short(column.type), 3: _Short(0), 4: column.name}
        if column.logical == MICROS:
            entry[10] = _Nested({8: _Nested({1: False, 2: _Nested({2: _Nested()})})})
        elif column.logical is not None:
            entry[6] = _Short(column.logical)
        schema.append(_record(entry))
    footer = _record({1: _Short(1), 2: _Structs(schema), 3: rows * groups, 4: _Structs(described)})
    path.write_bytes(bytes(data) + footer + struct.pack("<I", len(footer)) + b"PAR1")
    return path


def _group(
    data: bytearray, columns: Sequence[Column], rows: int, codec: str, change: Callable[[Any], None] | None
) -> bytes:
    chunks, start = [], len(data)
    for column in columns:
        place, first, dictionary = len(data), None, None
        for page in column.pages:
            if page.kind == 2:
                dictionary = len(data)
            elif first is None:
                first = len(data)
            data += _page(page, codec)
        meta: dict[int, Any] = {
            1: _Short(column.type),
            2: _Numbers([page.encoding for page in column.pages]),
            3: _Texts([column.name]),
            4: _Short(CODECS[codec]),
            5: rows,
            6: len(data) - place,
            7: len(data) - place,
            9: place if first is None else first,
        }
        if dictionary is not None:
            meta[11] = dictionary
        if change is not None:
            change(meta)
        chunks.append(_record({2: place, 3: _Nested(meta)}))
    return _record({1: _Structs(chunks), 2: len(data) - start, 3: rows})


def _page(page: Page, codec: str) -> bytes:
    packed = page.packed
    if packed is None:
        packed = page.data if codec == "uncompressed" else _pack(page.data, codec)
    size = len(page.data) if page.size is None else page.size
    head: dict[int, Any] = {1: _Short(page.kind), 2: _Short(size), 3: _Short(len(packed))}
    if page.kind == 2:
        head[7] = _Nested({1: _Short(page.values), 2: _Short(page.encoding)})
    elif page.kind == 3:
        of_rows = {number: _Short(page.values if number != 2 else 0) for number in (1, 2, 3)}
        head[8] = _Nested({**of_rows, 4: _Short(page.encoding), 5: _Short(0), 6: _Short(0)})
    else:
        head[5] = _Nested({1: _Short(page.values), 2: _Short(page.encoding), 3: _Short(RLE), 4: _Short(RLE)})
    return _record(head) + packed


def _pack(data: bytes, codec: str) -> bytes:
    return bytes(pa.Codec(codec).compress(data, asbytes=True))


class _Short(int):
    pass


class _Nested(dict[int, Any]):
    pass


class _Structs(list[bytes]):
    pass


class _Numbers(list[int]):
    pass


class _Texts(list[str]):
    pass


def _record(fields: dict[int, Any]) -> bytes:
    """A struct of thrift's compact protocol."""
    out, last = bytearray(), 0
    for place, value in sorted(fields.items()):
        kind, coded = _value(value)
        step = place - last
        out += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + signed(place)
        out += coded
        last = place
    return bytes(out) + b"\0"


def _value(value: Any) -> tuple[int, bytes]:  # noqa: PLR0911
    match value:
        case bool():
            return _FALSE - value, b""
        case _Short():
            return _I32, signed(value)
        case int():
            return _I64, signed(value)
        case str():
            return _BINARY, number(len(value.encode())) + value.encode()
        case _Nested():
            return _STRUCT, _record(value)
        case _Structs():
            return _LIST, _items(_STRUCT, list(value))
        case _Numbers():
            return _LIST, _items(_I32, [signed(each) for each in value])
        case _Texts():
            return _LIST, _items(_BINARY, [_value(each)[1] for each in value])
    raise TypeError(value)


def _items(kind: int, coded: list[bytes]) -> bytes:
    head = bytes([len(coded) << 4 | kind]) if len(coded) < 15 else bytes([0xF0 | kind]) + number(len(coded))
    return head + b"".join(coded)

"""What a parquet file's pages would become in memory, from their headers and before any of them is unpacked.

Footers say how large a column is; pyarrow goes by the pages, and these may say something else: a page of a kilobyte may
unpack to gigabytes, and one long text may be in every row. So each header is read first
(``parquet.thrift``: ``PageHeader``), and held to what so many values can take.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

ReadAt = Callable[[int, int], bytes]

LONGEST_TEXT = 400
"""Bytes; a longer text is not the name of an instrument, which has up to a hundred characters."""

MOST_NAMES = 1_000_000
"""Different texts in one column; Qlib's markets have some thousand instruments."""

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
# Where a page's header has the number of values and their encoding, by its type: 16 times the field, and the one in it.
_DETAILS = {_DATA: (0x51, 0x52), _DICTIONARY: (0x71, 0x72), _DATA_2: (0x81, 0x84)}
_DELTA_BYTE_ARRAY = 7
# Bytes of one value as it is stored; levels and the heads of blocks take less than one more.
_WIDTHS = {
    "BOOLEAN": 1,
    "INT32": 4,
    "FLOAT": 4,
    "INT64": 8,
    "DOUBLE": 8,
    "INT96": 12,
    "BYTE_ARRAY": LONGEST_TEXT + 4,
}
# However few its values are.
_SLACK = 1 << 16
# Texts of this length on the average are taken in any number; longer ones up to so many bytes a page.
_USUAL_TEXT = 64
_LARGE_PAGE = 64 << 20
# A dictionary may have entries that no row uses.
_FEW = 1 << 16
# Of a header in bytes: what nearly all have, and what pyarrow reads at most.
_HEADER, _LARGEST_HEADER = 192, 16 << 20
# Files of old writers have dictionaries that their footers do not count; pyarrow reads on by so much.
_UNCOUNTED = 100
_LENGTH = struct.Struct("<I")
_CODECS = {"SNAPPY": "snappy", "GZIP": "gzip", "BROTLI": "brotli", "ZSTD": "zstd", "LZ4_RAW": "lz4_raw"}


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What reading one column of one row group holds at a time.

    Attributes:
        page: Bytes of the largest page and of the dictionary, packed and unpacked.
        repeated: Bytes of the longest text that a page may repeat for each row; 0 where that is known to be short.
    """

    page: int
    repeated: int


def judge_chunk(read: ReadAt, size: int, chunk: Any, rows: int, length: int) -> Unpacked:
    """Walk the pages of one column in one row group.

    Args:
        read: Gives so many bytes of the file from a place on.
        size: Of the file.
        chunk: Its ``ColumnChunkMetaData``.
        rows: Of the row group.
        length: Of each value in bytes, where the column's type has one.

    Raises:
        ValueError: A page cannot be what it says, or holds what no factor table holds.
        OSError: The file cannot be read.
    """
    width = _WIDTHS.get(chunk.physical_type, length)
    if not 0 < width <= _WIDTHS["BYTE_ARRAY"]:
        raise ValueError(f"{chunk.path_in_schema} holds values of {width:,} bytes each")
    at, end = _span(size, chunk)
    total = chunk.num_values
    seen, page, dictionary, repeated = 0, 0, 0, 0
    while seen < total and at < end:
        header = _read_header(read, at)
        kind, unpacked, packed, values, encoding, at = header
        if packed < 0 or at + packed > end:
            raise ValueError(f"a page of {chunk.path_in_schema} goes beyond the column's end")
        if kind in _DETAILS:
            _require_possible(chunk, header, rows, width)
        if kind == _DICTIONARY:
            dictionary = packed + 2 * unpacked
            if chunk.physical_type == "BYTE_ARRAY" and not _has_short_texts(
                read(packed, at), chunk, unpacked
            ):
                repeated = max(repeated, unpacked)
        else:
            page = max(page, packed + unpacked)
            seen += values
            if encoding == _DELTA_BYTE_ARRAY:
                repeated = max(repeated, unpacked)
        at += packed
    return Unpacked(page + dictionary, repeated)


def text_too_long(name: str) -> ValueError:
    """The error for a column with texts that are not names."""
    return ValueError(f"{name} {NOT_A_NAME}")


NOT_A_NAME = f"holds a text of more than {LONGEST_TEXT} bytes, which no name of an instrument has"


def _span(size: int, chunk: Any) -> tuple[int, int]:
    """Where a column's pages are in the file, as pyarrow reckons it."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    if start < 0 or chunk.total_compressed_size < 0 or start + chunk.total_compressed_size > size:
        raise ValueError(f"{chunk.path_in_schema} lies outside of the file")
    return start, min(start + chunk.total_compressed_size + _UNCOUNTED, size)


class _Header(NamedTuple):
    """Of a page: its type, its sizes unpacked and packed, its values and their encoding, and where its data begin."""

    kind: int
    unpacked: int
    packed: int
    values: int
    encoding: int
    start: int


def _require_possible(chunk: Any, header: _Header, rows: int, width: int) -> None:
    kind, size, _, values, _, _ = header
    text = chunk.physical_type == "BYTE_ARRAY"
    most = rows
    if kind == _DICTIONARY:
        most = MOST_NAMES if text else max(rows, _FEW)
    if not 0 <= values <= most:
        raise ValueError(
            f"a page of {chunk.path_in_schema} promises {values:,} values for {rows:,} rows, and {most:,} is the limit"
        )
    if text and size > _SLACK + values * width:
        raise text_too_long(chunk.path_in_schema)
    largest = _LARGE_PAGE + values * _USUAL_TEXT if text else _SLACK + values * (width + 1)
    if not 0 <= size <= largest:
        raise ValueError(f"a page of {chunk.path_in_schema} promises {size:,} bytes for {values:,} values")


def _has_short_texts(data: bytes, chunk: Any, size: int) -> bool:
    """Whether no entry of a dictionary is too long; no where its packing is not known here.

    Raises:
        ValueError: One is.
    """
    if chunk.compression in _CODECS:
        data = pa.Codec(_CODECS[chunk.compression]).decompress(data, size, asbytes=True)
    elif chunk.compression != "UNCOMPRESSED":
        return False
    place, end = 0, len(data)
    while place + 4 <= end:
        (length,) = _LENGTH.unpack_from(data, place)
        if length > LONGEST_TEXT:
            raise text_too_long(chunk.path_in_schema)
        place += 4 + length
    return True


def _read_header(read: ReadAt, at: int) -> _Header:
    most = _HEADER
    while True:
        data = read(most, at)
        try:
            fields, length = _parse_numbers(data)
            kind = fields[1] >> 1
            details = _DETAILS.get(kind)
            return _Header(
                kind,
                _signed(fields[2]),
                _signed(fields[3]),
                0 if details is None else _signed(fields[details[0]]),
                0 if details is None else fields[details[1]] >> 1,
                at + length,
            )
        except IndexError:
            if len(data) < most or most > _LARGEST_HEADER:
                raise ValueError("a page's header is cut off") from None
            most *= 16
        except KeyError:
            raise ValueError(_DAMAGED) from None


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def _parse_numbers(data: bytes) -> tuple[dict[int, int], int]:
    """The 32-bit numbers of a struct in thrift's compact protocol, and its length.

    By field, those of a struct in it by 16 times its own field and theirs; as they are stored, the sign last. A table
    has many pages, and this is most of what judging them takes: so it is one loop.

    Raises:
        IndexError: It goes on.
        ValueError: It is not one, or one that pyarrow might read in another way.
    """
    fields: dict[int, int] = {}
    at = last = outer = 0
    while True:
        head = data[at]
        at += 1
        if not head:
            if not outer:
                return fields, at
            outer, last = outer >> 4, outer & 15
            continue
        kind, step = head & 15, head >> 4
        last += step
        if not step or last > 15:
            raise ValueError(_DAMAGED)
        if kind in _NUMBERS:
            value = data[at]
            at += 1
            if value > 127:
                value, shift = value & 127, 7
                while (more := data[at]) > 127 and shift < 63:
                    at += 1
                    value |= (more & 127) << shift
                    shift += 7
                at += 1
                value |= more << shift
            if kind == _BINARY:
                at += value
            elif kind == _INT32:
                if value >> 32:
                    raise ValueError(_DAMAGED)
                fields[outer << 4 | last] = value
        elif kind == _STRUCT and outer < 16:
            outer, last = outer << 4 | last, 0
        elif kind not in _TRUTH:
            raise ValueError(_DAMAGED)


_DAMAGED = "a page's header is damaged"
_TRUTH = (1, 2)
_INT32, _BINARY, _STRUCT = 5, 8, 12
_NUMBERS = (_INT32, _BINARY, 6)

"""Small parquet files that would come out large: each with an honest footer, or one that lies."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .forged import (
    BYTE_ARRAY,
    DELTA_BYTE_ARRAY,
    DELTA_LENGTH_BYTE_ARRAY,
    DOUBLE,
    INT64,
    MICROS,
    RLE_DICTIONARY,
    UTF8,
    Column,
    Page,
    deltas,
    number,
    one_name_again,
    same_index,
    texts,
    write,
)

_MB = 1 << 20
_DAY = 86_400_000_000
_DELTA_BINARY_PACKED = 5


def days(rows: int) -> Column:
    """A day for each row, one after the other; of more rows than there are days, the same."""
    step = _DAY if rows < 100_000 else 0
    return Column("datetime", INT64, [Page(rows, deltas(0, rows, step), _DELTA_BINARY_PACKED)], MICROS)


def stock(rows: int) -> Column:
    """The same stock in each row."""
    return names([Page(1, texts(["SH600000"]), kind=2), Page(rows, same_index(rows), RLE_DICTIONARY)])


def names(pages: list[Page]) -> Column:
    """The stocks, by these pages."""
    return Column("instrument", BYTE_ARRAY, pages, UTF8)


def score(rows: int, name: str = "score") -> Column:
    """The same number in each row."""
    one = Page(1, np.ones(1).tobytes(), kind=2)
    return Column(name, DOUBLE, [one, Page(rows, same_index(rows), RLE_DICTIONARY)])


def zeros(size: int) -> bytes:
    """So many zeros as zstd packs them, by four bytes for each 128 KB."""
    out = bytearray(struct.pack("<IBI", 0xFD2FB528, 0xA0, size))
    while size:
        block = min(size, 1 << 17)
        size -= block
        out += (block << 3 | 2 | (size == 0)).to_bytes(3, "little") + b"\0"
    return bytes(out)


def bomb(values: int, size: int, **more: Any) -> Page:
    """A page of zeros."""
    return Page(values, size=size, packed=zeros(size), **more)


def _long(count: int = 1) -> bytes:
    return texts([chr(ord("a") + place % 26) * _MB for place in range(count)])


def _plain(path: Path) -> None:
    pages = [Page(1, _long())] * 300
    write(path, [days(300), names(pages), score(300)], 300)


def _one_page(path: Path) -> None:
    write(path, [days(300), names([Page(300, _long(300))]), score(300)], 300)


def _first_of_many(path: Path) -> None:
    """One name of half a gigabyte, and two million without a letter: short ones on the average."""
    rows, size = 2_000_000, 512 * _MB
    page = Page(rows, size=size + 4 * rows, packed=_with_head(size, 4 * rows))
    write(path, [days(rows), names([page]), score(rows)], rows)


def _with_head(length: int, rest: int) -> bytes:
    # Two frames are read as one.
    head = struct.pack("<I", length)
    raw = struct.pack("<IBI", 0xFD2FB528, 0xA0, 4) + (4 << 3 | 1).to_bytes(3, "little") + head
    return raw + zeros(length + rest)


def _dictionary(path: Path) -> None:
    pages = [Page(300, _long(300), kind=2), Page(300, same_index(300), RLE_DICTIONARY)]
    write(path, [days(300), names(pages), score(300)], 300)


def _dictionary_not_kept(path: Path) -> None:
    """A long name and a million rows; that another encoding is listed keeps it from being read as a dictionary."""

    def change(meta: dict[int, Any]) -> None:
        if meta[1] == BYTE_ARRAY:
            meta[2].append(DELTA_BYTE_ARRAY)

    rows = 100_000
    pages = [Page(1, _long(), kind=2), Page(rows, same_index(rows), RLE_DICTIONARY)]
    write(path, [days(rows), names(pages), score(rows)], rows, change=change)


def _dictionary_of_few(path: Path) -> None:
    """Eight names of 50 KB and a dictionary that otherwise holds short ones: short on the average."""
    rows = 1_000_000
    held = texts(["x" * 50_000] * 8 + ["x"] * 4000)
    pages = [Page(4008, held, kind=2), Page(rows, same_index(rows), RLE_DICTIONARY)]

    def change(meta: dict[int, Any]) -> None:
        if meta[1] == BYTE_ARRAY:
            meta[2].append(DELTA_BYTE_ARRAY)

    write(path, [days(rows), names(pages), score(rows)], rows, change=change)


def _delta_length(path: Path) -> None:
    pages = [Page(1, deltas(_MB, 1) + b"x" * _MB, DELTA_LENGTH_BYTE_ARRAY)] * 300
    write(path, [days(300), names(pages), score(300)], 300)


def _delta(path: Path) -> None:
    """A kilobyte, and twenty gigabytes of text."""
    rows = 20_000
    pages = [Page(rows, one_name_again("x" * _MB, rows), DELTA_BYTE_ARRAY)]
    write(path, [days(rows), names(pages), score(rows)], rows)


def _delta_of_many(path: Path) -> None:
    """The same with so many rows that the page is short for them."""
    rows = 2_000_000
    pages = [Page(rows, one_name_again("x" * _MB, rows), DELTA_BYTE_ARRAY)]
    write(path, [days(rows), names(pages), score(rows)], rows)


def _page(kind: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        large = {
            "plain": [bomb(100, 1536 * _MB)],
            "second version": [bomb(100, 1536 * _MB, kind=3)],
            "dictionary": [bomb(100, 1536 * _MB, kind=2), Page(100, same_index(100), RLE_DICTIONARY)],
            "more values than rows": [bomb(192 * _MB, 1536 * _MB)],
            "dictionary of as many": [
                bomb(192 * _MB, 1536 * _MB, kind=2),
                Page(100, same_index(100), RLE_DICTIONARY),
            ],
        }[kind]
        write(path, [days(100), stock(100), Column("score", DOUBLE, large)], 100, change=_little)

    return make


def _little(meta: dict[int, Any]) -> None:
    meta[6] = 1000


def _lie(path: Path) -> None:
    """No gigabytes, only a header that says so."""
    page = Page(100, np.zeros(100).tobytes(), size=(1 << 31) - 1)
    write(path, [days(100), stock(100), Column("score", DOUBLE, [page])], 100)


def _negative(path: Path) -> None:
    page = Page(100, np.zeros(100).tobytes(), size=-8)
    write(path, [days(100), stock(100), Column("score", DOUBLE, [page])], 100)


def _rows(path: Path) -> None:
    rows = (1 << 31) - 1
    one = Page(rows, b"")
    write(path, [replace(days(2), pages=[one]), stock(rows), score(rows)], rows)


def _rows_for_bytes(path: Path) -> None:
    """A hundred rows for a byte of the file, of one day and one stock."""
    rows = 60_000_000
    write(path, [days(rows), stock(rows), score(rows)], rows, padding=rows // 100)


def _columns(path: Path) -> None:
    """Two hundred columns, and in each a page of 32 MB, as long as its four million rows need."""
    rows = 4_000_000
    wide = [Column(f"f{place}", DOUBLE, [bomb(rows, 8 * rows)]) for place in range(200)]
    write(path, [days(rows), stock(rows), *wide], rows)


def _rows_of_a_day(path: Path) -> None:
    rows = 2_000_000
    write(path, [days(rows), stock(rows), *(score(rows, f"f{place}") for place in range(300))], rows)


def _names_without_end(path: Path) -> None:
    """Three million names, each once, by eight row groups of dictionaries."""
    rows = 400_000
    held = np.zeros((rows, 12), dtype=np.uint8)
    held[:, 0] = 8
    held[:, 4:] = np.char.zfill(np.arange(rows).astype("S8"), 8).view("S1").reshape(rows, 8).view(np.uint8)
    pages = [
        Page(rows, held.tobytes(), kind=2),
        Page(rows, bytes([19]) + number(rows << 1) + bytes(3), RLE_DICTIONARY),
    ]
    write(path, [days(rows), names(pages), score(rows)], rows, groups=8)


TABLES: dict[str, Callable[[Path], None]] = {
    "names of a megabyte, a page each": _plain,
    "names of a megabyte in one page": _one_page,
    "names of a megabyte in a dictionary": _dictionary,
    "names of a megabyte by their lengths": _delta_length,
    "a long name among short ones": _first_of_many,
    "a long name in every row, by a dictionary": _dictionary_not_kept,
    "a few long names in a dictionary of short ones": _dictionary_of_few,
    "a long name in every row, as the one before": _delta,
    "a long name in more rows, as the one before": _delta_of_many,
    "a page of gigabytes": _page("plain"),
    "a page of gigabytes, second version": _page("second version"),
    "a dictionary of gigabytes": _page("dictionary"),
    "a page of more values than rows": _page("more values than rows"),
    "a dictionary of more values than rows": _page("dictionary of as many"),
    "a size that is not true": _lie,
    "a size below zero": _negative,
    "two billion rows": _rows,
    "a hundred rows a byte": _rows_for_bytes,
    "a large page in each of many columns": _columns,
    "all rows on one day": _rows_of_a_day,
    "names without end": _names_without_end,
}

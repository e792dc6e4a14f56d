"""Pages are judged before they are unpacked: small files that would come out large, and good ones that are small."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.export.description import has_gaps
from rdagent_sota_patch.export.market_slice import read_days
from rdagent_sota_patch.factor_table import pages, reading, rows
from rdagent_sota_patch.factor_table.pages import LONGEST_TEXT
from rdagent_sota_patch.factor_table.reading import iterate_batches, open_parquet, read_whole
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.scoring.replay import read_frame
from tests.proof.injecting import run_forked

from .expanding import TABLES, days, names, score, stock
from .forged import DELTA_BYTE_ARRAY, PLAIN, Column, Page, one_name_again, texts, write
from .frames import flatten, make_frame


@dataclass(frozen=True)
class _Manifest:
    files: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shipped:
    """As much of a bundle as its evidence is read by."""

    folder: Path
    manifest: _Manifest = field(default_factory=_Manifest)

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def _read_all(path: Path) -> None:
    with open_parquet(path) as file:
        read_whole(file, path)


READERS: dict[str, Callable[[Path], object]] = {
    "table": read_factor_table,
    "days": lambda path: read_days(path, pd.DatetimeIndex(["1970-01-01"])),
    "evidence": lambda path: read_frame(Shipped(path.parent), path.name),  # type: ignore[arg-type]
    "whole": _read_all,
    "gaps": has_gaps,
}
REFUSALS = {"", "table-unreadable", "replay-damaged", "table-duplicate-rows", "table-index"}
# MB above what the process has. What is kept of a small file may have a gigabyte, and half as much again on its way.
PEAKS = {"all rows on one day": 1700, "names without end": 700}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux does")
@pytest.mark.parametrize("case", TABLES)
def test_small_files_that_would_come_out_large(tmp_path: Path, case: str) -> None:
    """Each is refused or read in bounded memory, by each reader in a process of its own."""
    path = tmp_path / "a.parquet"
    TABLES[case](path)
    refused = set()
    for name, read in READERS.items():

        def act(read: Callable[[Path], object] = read) -> None:
            before = _memory("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            try:
                read(path)
            finally:
                grown = _memory("VmHWM") - before
                assert grown < PEAKS.get(case, 300), f"{grown:.0f} MB"

        outcome = run_forked(act)
        assert not outcome.foreign and not outcome.killed, (name, outcome)
        assert outcome.slug in REFUSALS
        refused.add(outcome.slug)
    assert "table-unreadable" in refused or case == "names without end"


def _memory(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def said_of(path: Path) -> Any:
    with pytest.raises(TableError) as caught:
        read_factor_table(path)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "brotli", "lz4", None])
def test_the_longest_name(tmp_path: Path, compression: str | None, *, dictionary: bool) -> None:
    """A name of as many bytes as are taken is; one more, and the column is named and what to do."""
    for length, slug in ((LONGEST_TEXT, None), (LONGEST_TEXT + 1, "table-unreadable")):
        frame = flatten(make_frame(days=50)).rename(index={"SH600001": "x" * length}, level="instrument")
        path = tmp_path / f"{length}.parquet"
        frame.to_parquet(path, compression=compression, use_dictionary=dictionary)
        if slug is None:
            assert read_factor_table(path).instruments == 3
            assert len(read_days(path, pd.DatetimeIndex(["2015-01-01"]))) == 3
            continue
        problem = said_of(path)
        assert problem.slug == slug
        assert f"instrument holds a text of more than {LONGEST_TEXT} bytes" in problem.message
        assert "SH600000" in problem.hint


def test_a_long_name_as_the_one_before(tmp_path: Path) -> None:
    """A name that is in each row as a repetition of the one before: read where it is short, else refused."""
    path = tmp_path / "a.parquet"
    for name, readable in (("SH600000", True), ("x" * (LONGEST_TEXT + 1), False)):
        page = Page(9000, one_name_again(name, 9000), DELTA_BYTE_ARRAY)
        write(path, [days(9000), names([page]), score(9000)], 9000)
        if readable:
            assert read_factor_table(path).instruments == 1
        else:
            assert "holds a text of more than" in said_of(path).message


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "brotli", "lz4", None])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_tables_that_pack_well(
    tmp_path: Path, compression: str | None, version: str, *, dictionary: bool
) -> None:
    """Nothing but zeros, one stock, large pages: honest, and read as any other."""
    path = tmp_path / "a.parquet"
    frame = flatten(make_frame(days=40, instruments=2000)) * 0.0
    frame["One"] = 1.0
    frame.to_parquet(
        path,
        compression=compression,
        use_dictionary=dictionary,
        data_page_version=version,
        data_page_size=1 << 30,
        compression_level=19 if compression == "zstd" else None,
    )
    table = read_factor_table(path)
    assert (table.rows, table.instruments, table.names) == (80_000, 2000, ("Rev5D", "Vol20", "One"))
    first = read_days(path, pd.DatetimeIndex(["2015-01-01"]))
    np.testing.assert_array_equal(first["One"], np.ones(2000))
    assert has_gaps(path)


def test_a_header_of_many_bytes(tmp_path: Path) -> None:
    """Statistics in it may be longer than what is read of a page first."""
    path = tmp_path / "a.parquet"
    frame = flatten(make_frame()).rename(index={"SH600001": "x" * 390}, level="instrument")
    frame.to_parquet(path, use_dictionary=False)
    assert read_factor_table(path).instruments == 3


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_headers_that_are_cut_off(tmp_path: Path, cut: int) -> None:
    """A page that begins where the file ends is no page."""
    path = tmp_path / "a.parquet"
    head = Column("score", 5, [Page(100, bytes(800))])

    def change(meta: dict[int, Any]) -> None:
        if meta[1] == 5:
            meta[9] = path_size - cut

    write(path, [days(100), stock(100), head], 100)
    path_size = path.stat().st_size
    write(path, [days(100), stock(100), head], 100, change=change)
    assert said_of(path).slug == "table-unreadable"


@pytest.mark.parametrize(
    "header",
    [
        b"\x15\x00\x15\x10\x15\x10\x19\x10",
        b"\x15\x00\x15\x10\x05\x06\x10",
        b"\x15" + b"\xff" * 12,
        b"\x15\x00\x15\xff\xff\xff\xff\xff\x01\x15\x10\x00",
        b"\x15\x00\x00",
        b"\x1c" * 40,
        bytes(200),
    ],
)
def test_headers_that_are_none(header: bytes) -> None:
    """What is no page's header is refused, and never read in another way than pyarrow might."""
    data = header + bytes(300)
    with pytest.raises(ValueError, match="header"):
        pages._read_header(lambda size, at: data[at : at + size], 0)


def test_columns_beside_each_other(tmp_path: Path) -> None:
    """A column is read by its name alone: ``A`` does not bring ``A.b`` along, nor a list."""
    path = tmp_path / "a.parquet"
    frame = flatten(make_frame(names=("A", "A.b")))
    frame.to_parquet(path)
    assert read_factor_table(path).names == ("A", "A.b")
    table = pa.Table.from_pandas(frame).append_column("list", pa.array([[1.0]] * len(frame)))
    pq.write_table(table.rename_columns([*table.schema.names[:-1], "list"]), path)
    with open_parquet(path) as file:
        assert [batch.schema.names for batch in iterate_batches(file, path, ["A"])] == [["A"]]
        with pytest.raises(TableError, match="lists"):
            list(iterate_batches(file, path))


def test_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More names than any market has are no instruments, in whatever parts they come."""
    monkeypatch.setattr(rows, "MOST_NAMES", 2)
    path = tmp_path / "a.parquet"
    flatten(make_frame()).to_parquet(path)
    assert said_of(path).slug == "table-index"


def test_what_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are kept, and pages that are open together, are counted against the file's size."""
    path = tmp_path / "a.parquet"
    frame = flatten(make_frame(days=2000, names=tuple("ABCDEFGH"))) * 0.0
    frame.to_parquet(path, compression="zstd", use_dictionary=False)
    read_days(path, frame.index.levels[0])
    monkeypatch.setattr(reading, "_FEW_HELD", 1 << 10)
    with pytest.raises(SotaError, match="needed at the same time"):
        read_days(path, frame.index.levels[0])
    assert read_factor_table(path).rows == 6000


def test_pages_of_one_value(tmp_path: Path) -> None:
    """As many pages as rows are read like one."""
    path = tmp_path / "a.parquet"
    single = [Page(1, np.float64(place).tobytes(), PLAIN) for place in range(500)]
    stocks = [Page(1, texts([f"S{place}"])) for place in range(500)]
    write(path, [days(500), names(stocks), Column("score", 5, single)], 500, codec="uncompressed")
    assert read_factor_table(path).instruments == 500

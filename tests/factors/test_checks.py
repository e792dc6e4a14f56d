"""Dates against the segments of a run, and instruments against its market."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.factors.checks import check_instruments, check_segments
from rdagent_sota_patch.factors.segments import Segments
from rdagent_sota_patch.factors.table import FactorTable, read_factor_table

from .frames import make_frame

SEGMENTS = Segments(
    train_start=date(2008, 1, 1),
    train_end=date(2014, 12, 31),
    valid_start=date(2015, 1, 1),
    valid_end=date(2016, 12, 31),
    test_start=date(2017, 1, 1),
    test_end=date(2020, 8, 1),
)


def make_table(start: date, end: date) -> FactorTable:
    """A table of these dates, in name only."""
    return FactorTable(Path("a.parquet"), ("x",), 1, start, end, 1, "sha256:0", True, (0, 0))


@pytest.mark.parametrize(
    ("start", "end", "errors", "notices"),
    [
        (date(2008, 1, 2), date(2020, 7, 31), [], []),
        (date(2000, 1, 1), date(2030, 1, 1), [], []),
        (date(2008, 3, 31), date(2020, 7, 20), [], []),
        (date(2008, 4, 1), date(2020, 8, 1), [], ["train"]),
        (date(2008, 1, 2), date(2020, 7, 1), [], ["test"]),
        (date(2010, 1, 1), date(2018, 1, 1), [], ["train", "test"]),
        (date(2015, 2, 1), date(2020, 8, 1), ["train"], ["valid"]),
        (date(2008, 1, 1), date(2016, 12, 31), ["test"], []),
        (date(2017, 1, 1), date(2020, 8, 1), ["train", "valid"], []),
        (date(2021, 1, 1), date(2022, 1, 1), ["train", "valid", "test"], []),
        (date(2000, 1, 1), date(2001, 1, 1), ["train", "valid", "test"], []),
        (date(2014, 12, 31), date(2017, 1, 1), [], ["train", "test"]),
    ],
)
def test_segments(start: date, end: date, errors: list[str], notices: list[str]) -> None:
    """A segment without a day is an error, one in part a notice, and both name all dates."""
    findings = check_segments(make_table(start, end), SEGMENTS)
    spans = {name: f"{name} segment {first} to {last}" for name, first, last in SEGMENTS.spans()}
    for problems, slug, names in (
        (findings.errors, "table-dates", errors),
        (findings.notices, "table-dates-partial", notices),
    ):
        assert [problem.slug for problem in problems] == [slug] * len(names)
        for problem, name in zip(problems, names, strict=True):
            assert f"covers {start} to {end}" in problem.message
            assert spans[name] in problem.message


def test_an_open_end_is_never_early() -> None:
    """A test segment without an end needs one day at least, and no particular last one."""
    segments = replace(SEGMENTS, test_end=None)
    assert not check_segments(make_table(date(2008, 1, 1), date(2017, 1, 1)), segments).notices
    (problem,) = check_segments(make_table(date(2008, 1, 1), date(2016, 12, 31)), segments).errors
    assert "2017-01-01 onwards" in problem.message


@pytest.fixture
def table(tmp_path: Path) -> FactorTable:
    """A table of SH600000 to SH600002."""
    make_frame().to_parquet(tmp_path / "a.parquet")
    return read_factor_table(tmp_path / "a.parquet")


def test_instruments_of_the_market(table: FactorTable) -> None:
    """One shared instrument is enough."""
    assert check_instruments(table, {"SH600002", "SZ000001"}) == []


def test_instruments_of_another_market(table: FactorTable) -> None:
    """No shared instrument is a problem that shows one of each."""
    (problem,) = check_instruments(table, {"AAPL", "MSFT"})
    assert problem.slug == "table-instruments"
    assert "SH600000" in problem.message
    assert "AAPL" in problem.message
    (problem,) = check_instruments(table, set())
    assert "among the 0 of the market." in problem.message


def test_instruments_in_another_case(table: FactorTable) -> None:
    """Names that differ in case only do not match in Qlib, and the hint says so."""
    (problem,) = check_instruments(table, {"sh600000"})
    assert "case only" in problem.hint


def test_instruments_of_a_file_that_changed(table: FactorTable) -> None:
    """A file that lost its index since is an error, not a guess."""
    make_frame().reset_index(drop=True).to_parquet(table.path)
    with pytest.raises(TableError, match="table-index"):
        check_instruments(table, {"SH600000"})

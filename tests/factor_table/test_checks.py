"""Dates against the segments of a run."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from rdagent_sota_patch.factor_table.checks import check_segments
from rdagent_sota_patch.factor_table.segments import Segments
from rdagent_sota_patch.factor_table.table import FactorTable

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


def test_the_first_and_last_days_there_are() -> None:
    """Segments at the ends of the calendar that Python knows are compared like others."""
    segments = replace(SEGMENTS, train_start=date.min, train_end=date.min, test_end=date.max)
    findings = check_segments(make_table(date(2008, 1, 1), date(2020, 1, 1)), segments)
    assert [problem.slug for problem in (*findings.errors, *findings.notices)] == [
        "table-dates",
        "table-dates-partial",
    ]

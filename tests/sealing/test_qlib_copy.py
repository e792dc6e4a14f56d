"""Cutting a Qlib provider folder before a day."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from rdagent_sota_patch.demo.synthetic_market import MarketSpec, simulate_market, write_qlib_data
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sealing.qlib_copy import cut_provider

DAY = date(2018, 2, 1)
SPEC = MarketSpec(stocks=51, start=date(2018, 1, 1), end=date(2018, 2, 20))


@pytest.fixture
def provider(tmp_path: Path) -> Path:
    """A provider folder with a stock that begins late, one that ends early, and data of other kinds."""
    folder = tmp_path / "whole"
    write_qlib_data(simulate_market(SPEC), folder)
    lines = (folder / "instruments" / "csi300.txt").read_text().splitlines()
    lines += ["SHLATE\t2018-02-10\t2018-02-20", "SHEARLY\t2018-01-02\t2018-01-10"]
    (folder / "instruments" / "csi300.txt").write_text("\n".join(lines) + "\n")
    for name, start, count in (("shlate", 29.0, 5), ("shearly", 1.0, 7)):
        (folder / "features" / name).mkdir()
        np.asarray([start, *range(count)], dtype="<f4").tofile(folder / "features" / name / "close.day.bin")
    (folder / "calendars" / "day_future.txt").write_text("2018-01-01\n2018-01-02\n2018-02-01\n2019-01-01\n")
    (folder / "financial").mkdir()
    return folder


def test_each_file_ends_before_the_day(provider: Path, tmp_path: Path) -> None:
    """Values are the same bytes; calendars and instruments name no later day."""
    left_out = cut_provider(provider, tmp_path / "cut", DAY)
    days = (tmp_path / "cut" / "calendars" / "day.txt").read_text().split()
    whole_days = (provider / "calendars" / "day.txt").read_text().split()
    assert days == [day for day in whole_days if day < "2018-02-01"]
    assert (tmp_path / "cut" / "calendars" / "day_future.txt").read_text() == "2018-01-01\n2018-01-02\n"
    stock = "features/sh600000/close.day.bin"
    assert (tmp_path / "cut" / stock).read_bytes() == (provider / stock).read_bytes()[: 4 + 4 * len(days)]
    early = "features/shearly/close.day.bin"
    assert (tmp_path / "cut" / early).read_bytes() == (provider / early).read_bytes()
    assert not (tmp_path / "cut" / "features/shlate/close.day.bin").exists()
    spans = [
        line.split("\t")
        for line in (tmp_path / "cut" / "instruments" / "csi300.txt").read_text().splitlines()
    ]
    assert len(spans) == 52
    assert {end for name, _, end in spans if name != "SHEARLY"} == {days[-1]}
    assert ["SHEARLY", "2018-01-02", "2018-01-10"] in spans
    assert left_out == ("financial",)


def test_no_byte_of_a_later_value_is_in_the_copy(provider: Path, tmp_path: Path) -> None:
    """Neither as a float nor as text."""
    mark = np.float32(98765.4321)
    for file in (provider / "features").rglob("*.bin"):
        values = np.fromfile(file, dtype="<f4")
        values[1 + 23 :] = mark
        values.tofile(file)
    cut_provider(provider, tmp_path / "cut", DAY)
    assert not any(
        mark.tobytes() in file.read_bytes() for file in (tmp_path / "cut").rglob("*") if file.is_file()
    )


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("calendars/day.txt", "2018-01-02\n2018-03-01\n2018-01-03\n", "not in the order"),
        ("calendars/day.txt", "2019-01-02\n", "no day before"),
        ("calendars/day.txt", "soon\n", "does not begin with a day"),
        ("instruments/csi300.txt", "SH600000\n", "is not a name"),
    ],
)
def test_what_cannot_be_cut_is_said(provider: Path, tmp_path: Path, file: str, text: str, words: str) -> None:
    """With the file; nothing is guessed."""
    (provider / file).write_text(text)
    with pytest.raises(SotaError, match=words) as caught:
        cut_provider(provider, tmp_path / "cut", DAY)
    assert caught.value.slug == "seal-data-unreadable"
    assert Path(file).name in str(caught.value)


def test_a_start_that_is_no_place_is_refused(provider: Path, tmp_path: Path) -> None:
    """A file of another format would be cut at a wrong place."""
    np.asarray([1.5, 1.0], dtype="<f4").tofile(provider / "features" / "sh600000" / "close.day.bin")
    with pytest.raises(SotaError, match="no place in a calendar"):
        cut_provider(provider, tmp_path / "cut", DAY)

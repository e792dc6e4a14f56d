"""Qlib's text files, and how an instrument may be spelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.factor_table.universe import read_universe, suggest_spellings


def write_qlib(folder: Path, days: list[str], **lists: str) -> Path:
    """A Qlib folder with these trading days and lists of instruments."""
    (folder / "calendars").mkdir(parents=True)
    (folder / "instruments").mkdir()
    (folder / "calendars" / "day.txt").write_text("\n".join(days) + "\n", encoding="utf-8")
    for name, text in lists.items():
        (folder / "instruments" / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_reads_qlibs_files(tmp_path: Path) -> None:
    """Days since 1970, spans of the market, and every instrument of any list."""
    folder = write_qlib(
        tmp_path,
        ["1970-01-02", "1970-01-05"],
        csi300="A\t1970-01-01\t1970-01-03\nA\t1970-02-01\t1970-02-02\nB\n",
        all="C\t1970-01-01\t1970-01-02\n",
    )
    universe = read_universe(folder, "csi300")
    assert universe is not None
    assert universe.days.tolist() == [1, 4]
    assert universe.members["A"] == ((0, 2), (31, 32))
    assert universe.members["B"] == ((-106751, 106751),)
    assert universe.known == {"A", "B", "C"}


@pytest.mark.parametrize("text", ["A\tnever\t1970-01-01\n", "A\t\xff\tx"])
def test_lists_that_are_none(tmp_path: Path, text: str) -> None:
    """What cannot be read is not at hand, and no traceback."""
    folder = write_qlib(tmp_path, ["1970-01-02"], csi300=text)
    assert read_universe(folder, "csi300") is None
    assert read_universe(folder, "csi500") is None


def test_without_a_calendar(tmp_path: Path) -> None:
    """The instruments are known all the same."""
    universe = read_universe(write_qlib(tmp_path, ["no day"], csi300="A\n"), "csi300")
    assert universe is not None
    assert len(universe.days) == 0


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("sz000001", "SZ000001"),
        ("000001.SZ", "SZ000001"),
        ("000001.XSHE", "SZ000001"),
        ("SZSE.000001", "SZ000001"),
        ("sh.600000", "SH600000"),
        ("600000", "SH600000"),
        ("600000.SS", "SH600000"),
        (" SH600000 ", "SH600000"),
    ],
)
def test_spellings(name: str, meant: str) -> None:
    """Case, exchange behind or in front, other names of the exchange, or none."""
    assert suggest_spellings([name], {"SZ000001", "SH600000", "SH000300"}) == {name: meant}
    there = {"000001.SZ", "600000.SH"}
    assert suggest_spellings([meant], there) == {meant: f"{meant[2:]}.{meant[:2]}"}


@pytest.mark.parametrize("name", ["000300", "AAPL", "SH123456", "US600000", "", "SZ600000"])
def test_no_guess(name: str) -> None:
    """Digits of two exchanges, another exchange, or nothing known: no proposal."""
    assert suggest_spellings([name], {"SH000300", "SZ000300", "SH600000"}) == {}

"""The arithmetic of the benchmarks, and the verdict that the exit code stands on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks.comparison import Bound, Comparison, Limit, compare, differences
from tests.benchmarks.report import render

RATIO = Limit(Bound.RATIO, 1.5)
AMOUNT = Limit(Bound.AMOUNT, 100.0)


def test_compares_medians() -> None:
    """One disturbed round does not decide."""
    line = compare("copy", "ms", [10.0, 12.0, 900.0], [8.0, 6.0, 7.0])
    assert (line.measured, line.reference, line.rounds) == (12.0, 7.0, 3)
    assert line.ratio == pytest.approx(12 / 7)


def test_differences_are_taken_round_by_round() -> None:
    """A machine that gets busier half-way changes both of a pair alike; uneven rounds are a mistake."""
    assert differences([11.0, 52.0], [10.0, 50.0]) == [1.0, 2.0]
    with pytest.raises(ValueError, match="zip"):
        differences([1.0], [])


@pytest.mark.parametrize(
    ("measured", "limit", "met"),
    [
        (15.0, RATIO, True),
        (15.1, RATIO, False),
        (100.0, AMOUNT, True),
        (100.1, AMOUNT, False),
        (1e9, None, None),
    ],
)
def test_a_limit_is_the_most_that_is_allowed(measured: float, limit: Limit | None, met: bool | None) -> None:
    """A ratio is held against the reference of 10, an amount against nothing; without a limit nothing is missed."""
    assert compare("line", "MB", [measured], [10.0], limit).met is met


def test_a_ratio_to_nothing_is_not_met() -> None:
    """A limit on a ratio cannot be kept where there is no reference."""
    line = compare("line", "ms", [1.0], [], RATIO)
    assert (line.reference, line.ratio, line.met) == (None, None, False)


@pytest.mark.parametrize(("measured", "code", "word"), [(1.0, 0, "yes"), (2.0, 1, "NO")])
def test_a_missed_limit_is_shown_and_fails(
    measured: float,
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The table, the JSON and the exit code say the same."""
    lines: list[Comparison] = [
        compare("only reported", "s", [5.0]),
        compare("bounded", "ms", [measured], [1.0], RATIO),
    ]
    monkeypatch.setattr(benchmarks, "measure_all", lambda folder, names: lines)
    assert benchmarks.main(["--json", "--folder", str(tmp_path)]) == code
    printed = json.loads(capsys.readouterr().out)
    assert [line["met"] for line in printed["comparisons"]] == [None, code == 0]
    assert printed["comparisons"][1]["limit"] == {"ratio": 1.5}
    console = Console(width=120)
    with console.capture() as shown:
        console.print(render(lines, {"python": "3"}))
    row = next(line for line in shown.get().splitlines() if "bounded" in line)
    assert row.split()[-1] == word

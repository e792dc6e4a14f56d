"""Run the benchmarks: ``python -m tests.benchmarks [--json] [--only NAME …]``; exit code 1 if a limit is not met."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.benchmarks import (
    ablating,
    audit,
    downloads,
    factor_table,
    inspection,
    locating,
    model_loop,
    prediction,
    serving,
    shipping,
    startup,
)
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.report import render
from tests.sessions.generated_log import PlannedLoop, generate_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.comparison import Comparison

NAMES = (
    "startup",
    "locating",
    "inspection",
    "serving",
    "downloads",
    "model_loop",
    "shipping",
    "prediction",
    "audit",
    "ablating",
)
_PROGRESS = Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="measure these alone")
    parser.add_argument("--folder", type=Path, help="where to work; needs 3 GB (default: the system's)")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.folder) as folder:
        comparisons = measure_all(Path(folder).resolve(), options.only)
    if options.json:
        lines = [each.to_plain() for each in comparisons]
        print(json.dumps({"machine": machine, "comparisons": lines}, indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(render(comparisons, machine))
    return 1 if any(each.met is False for each in comparisons) else 0


def measure_all(folder: Path, names: Sequence[str]) -> list[Comparison]:
    """Make what the named benchmarks need, and run them one after the other."""
    comparisons: list[Comparison] = []
    if "startup" in names:
        with _doing("start-up: some hundred starts of Python"):
            comparisons += startup.measure(folder)
    if {"locating", "inspection", "serving"} & set(names):
        with _doing(f"writing a log of {locating.LOOPS} loops with RD-Agent's classes"):
            log = generate_log(folder / "project" / "log" / "run", _plan())
        if "locating" in names:
            with _doing("locating: reading it in fresh processes"):
                comparisons += locating.measure(folder, log)
        if "inspection" in names:
            with _doing("rdagent-sota inspect and rdagent --help"):
                comparisons += inspection.measure(folder, log)
        if "serving" in names:
            with _doing("serving: its anchor, and 200 clients for a minute"):
                comparisons += serving.measure(folder, log)
    if "downloads" in names:
        with _doing("downloading 500 MB from the server"):
            comparisons += downloads.measure(folder)
    if "model_loop" in names:
        with _doing("writing and preparing a table of 2,000,000 x 20"):
            factor_table.make_table(folder)
            preparation = factor_table.measure_preparation(folder)
        with _doing("model loops in fresh processes"):
            comparisons += model_loop.measure(folder)
        comparisons += preparation
    if "shipping" in names:
        with _doing("exporting: a table of 450 MB, weights of 500 MB"):
            comparisons += shipping.measure(folder)
    if "prediction" in names:
        with _doing("predicting a day of 5,000 stocks, which takes minutes"):
            comparisons += prediction.measure(folder)
    if "audit" in names:
        with _doing(f"auditing {audit.FACTORS} factors"):
            comparisons += audit.measure(folder)
    if "ablating" in names:
        with _doing("ablating 30 factors beside qrun, which takes minutes"):
            comparisons += ablating.measure(folder)
    return comparisons


def _plan() -> list[PlannedLoop]:
    """Two factors a loop, two of three loops accepted: some 30 KB a loop, as in real runs."""
    return [
        PlannedLoop(factors=(f"Momentum{loop}", f"Volatility{loop}"), accepted=loop % 3 != 1)
        for loop in range(locating.LOOPS)
    ]


@contextmanager
def _doing(what: str) -> Iterator[None]:
    with _PROGRESS.status(what):
        yield
    _PROGRESS.print(f"✓ {what}", style="dim")


if __name__ == "__main__":
    sys.exit(main())

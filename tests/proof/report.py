"""What a part of the proof found, as a row of one table."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

_VERDICTS = {True: "pass", False: "FAIL", None: "not run"}


@dataclass(frozen=True)
class Row:
    """One kind of cases.

    Attributes:
        cases: How many were tried.
        passed: Whether all of them held; None if they could not be tried here.
        found: What was measured, or the first that failed, or why they could not be tried.
        memory: The largest peak of a process that was used for them, in MB.
    """

    part: str
    name: str
    cases: int
    passed: bool | None
    found: str
    seconds: float = 0.0
    memory: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def timed(make: Callable[[], Row]) -> Row:
    """The row with the time that it took, and the largest process among those that were waited for."""
    start = time.perf_counter()
    row = make()
    memory = row.memory or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    plain = asdict(row) | {"seconds": time.perf_counter() - start, "memory": memory}
    return Row(**plain)


def judge(part: str, name: str, cases: int, failures: list[str], found: str = "", memory: float = 0.0) -> Row:
    """A row that passes where nothing failed and something was tried."""
    said = f"{len(failures)} failed, the first: {failures[0]}" if failures else found
    return Row(part, name, cases, not failures and cases > 0, said, memory=memory)


def render(rows: Iterable[Row]) -> Table:
    """One table for all parts."""
    table = Table(title="make proof")
    for name, right in (
        ("part", 0),
        ("what", 0),
        ("cases", 1),
        ("found", 0),
        ("time", 1),
        ("memory", 1),
        ("", 0),
    ):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        memory = f"{row.memory:,.0f} MB" if row.memory else ""
        style = None if row.passed else "bold red" if row.passed is False else "yellow"
        cells = (row.part, row.name, f"{row.cases:,}", row.found, f"{row.seconds:,.0f} s", memory)
        table.add_row(*cells, _VERDICTS[row.passed], style=style)
    return table

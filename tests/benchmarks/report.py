"""The result for people: one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from tests.benchmarks.comparison import Bound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.benchmarks.comparison import Comparison, Limit

_VERDICTS = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: ""}


def render(comparisons: Iterable[Comparison], machine: Mapping[str, str]) -> Table:
    """The table: medians, their ratio, and the limits."""
    table = Table(box=box.SIMPLE_HEAD, caption=", ".join(f"{key} {value}" for key, value in machine.items()))
    table.add_column("measured / reference")
    for name in ("measured", "reference", "ratio", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("met")
    for each in comparisons:
        table.add_row(
            each.name,
            f"{_number(each.measured)} {each.unit}",
            "" if each.reference is None else f"{_number(each.reference)} {each.unit}",
            "" if each.ratio is None else _number(each.ratio),
            _limit(each.limit, each.unit),
            _VERDICTS[each.met],
        )
    return table


def _limit(limit: Limit | None, unit: str) -> str:
    if limit is None:
        return ""
    return f"≤ {limit.most:g}" + ("" if limit.bound is Bound.RATIO else f" {unit}")


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4f}"

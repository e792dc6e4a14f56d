"""A back-test's lines over its days: where they run in the drawing. Positions as in `chart`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from rdagent_sota_patch.server.chart import FOOT, GAP, HEIGHT, TITLE, Scale, Tick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.results.curves import Curves, Line

WIDTH = 1000
"""Of a panel's own coordinates across; the browser stretches them to the drawing's width."""
_STYLES = {
    "strategy after costs": "main",
    "benchmark": "other",
    "excess after costs": "best",
    "IC of the day": "faint",
    "mean IC so far": "main",
    "mean Rank IC so far": "best",
    "turnover of the day": "faint",
    "costs so far": "main",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a panel: its name, its style, and its path in `WIDTH` by `HEIGHT`."""

    name: str
    style: str
    path: str


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """Lines over the same days; ``top`` and ``bottom`` of the plot in pixels."""

    title: str
    top: float
    bottom: float
    ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The panels from the top, with the first and the last day under them; height in pixels."""

    height: int
    axis_y: float
    first: str
    last: str
    panels: tuple[CurvePanel, ...]


def draw_curves(curves: Curves) -> Drawing | None:
    """Place the panels that have lines; None without any."""
    kinds = (
        ("Summed returns", curves.equity, True),
        ("Drawdown of the excess", curves.drawdown, True),
        ("IC", curves.ic, False),
        ("Turnover", curves.turnover, True),
        ("Costs, summed up", curves.costs, True),
    )
    shown = [kind for kind in kinds if any(_known(kind[1]))]
    if not shown:
        return None
    days = [day for _, lines, _ in shown for line in lines for day in line.days]
    first, last = min(days), max(days)
    panels = tuple(
        _panel(title, lines, float(TITLE + number * (HEIGHT + GAP + TITLE)), (first, last), share=share)
        for number, (title, lines, share) in enumerate(shown)
    )
    bottom = panels[-1].bottom
    return Drawing(round(bottom + FOOT), bottom + 18, _iso(first), _iso(last), panels)


def _panel(
    title: str, lines: Sequence[Line], top: float, span: tuple[int, int], *, share: bool
) -> CurvePanel:
    known = _known(lines)
    # With zero in it: whether a line is above or below it is what is looked for.
    scale = Scale.over([*known, 0.0], top)
    curves = tuple(
        Curve(line.name, _STYLES.get(line.name, "main"), _path(line, scale, span)) for line in lines
    )
    ends = (f"{line.name} ends at {_percent(line.values[-1], share)}" for line in lines)
    lowest = f", lowest {_percent(min(known), share)}"
    text = f"{title}, {_iso(span[0])} to {_iso(span[1])}: {', '.join(ends)}{lowest}"
    return CurvePanel(title, top, scale.bottom, tuple(scale.ticks(share=share)), curves, text)


def _path(line: Line, scale: Scale, span: tuple[int, int]) -> str:
    length = max(1, span[1] - span[0])
    parts, pen = [], "M"
    for day, value in zip(line.days, line.values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        parts.append(f"{pen}{WIDTH * (day - span[0]) / length:.1f} {scale.y(value) - scale.top:.1f}")
        pen = "L"
    return "".join(parts)


def _known(lines: Sequence[Line]) -> list[float]:
    return [value for line in lines for value in line.values if math.isfinite(value)]


def _percent(value: float, share: bool) -> str:
    return f"{100 * value:.2f} %" if share else f"{value:.4f}"


def _iso(day: int) -> str:
    return date.fromordinal(day).isoformat()

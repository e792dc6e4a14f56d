"""IC and annualized return over a run's loops: where everything is drawn.

Across, positions are in percent of the drawing's width, so that one drawing fits every screen and its texts keep
their size; down, they are in pixels.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rdagent_sota_patch.server.numbers import (
    ANNUALIZED_RETURN,
    IC,
    format_metric,
    format_tick,
    is_share,
    label_metric,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rdagent_sota_patch.results.schemas import LoopItem

METRICS = (IC, ANNUALIZED_RETURN)
"""One panel each, from the top."""

TITLE = 22  # height of a panel's title line
HEIGHT = 120  # height of a panel's plot
GAP = 26  # between two panels
FOOT = 24  # under the last one, for the loops' numbers
_EDGE = 2.5  # percent left free at either side
_MOST_NUMBERS = 8  # of loops under the axis, so that they fit at phone width
_SMALLEST = 1e-12  # of values that are told apart
_DENSE = 40  # loops from which marks are drawn smaller


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across a panel, ``y`` pixels from the top, with its label."""

    y: float
    label: str
    zero: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A line between two loops that follow each other and both have a value; x in percent, y in pixels."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric over the loops; ``top`` and ``bottom`` of its plot in pixels."""

    title: str
    top: float
    bottom: float
    ticks: tuple[Tick, ...]
    segments: tuple[Segment, ...]
    empty: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """A loop's value of one metric: its text, and where its mark is; ``y`` is None for a missing one."""

    title_y: float
    y: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """One loop in the drawing.

    Attributes:
        row: Position in the history, from 0: which row of the table it leads to.
        x: In percent; `left` and `width` are of the strip that belongs to it.
        mark: ``sota``, ``accepted``, ``rejected`` or ``open`` (without a verdict).
        number: Its number under the axis; None where there is no room.
        text: All that it says, for who cannot see it.
    """

    row: int
    loop: int
    x: float
    left: float
    width: float
    mark: str
    number: str | None
    readings: tuple[Reading, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The drawing; height in pixels.

    Attributes:
        own_from: Where the run's own loops begin, in percent, after those it inherited; None without such.
    """

    height: int
    axis_y: float
    dense: bool
    own_from: float | None
    panels: tuple[Panel, ...]
    columns: tuple[Column, ...]

    @property
    def marks(self) -> frozenset[str]:
        """Which marks there are: what the legend has to explain."""
        return frozenset(column.mark for column in self.columns)


def draw_chart(loops: Sequence[LoopItem]) -> Chart:
    """Place panels, lines and marks for a run's loops, oldest first; there must be at least one."""
    places = [_place(row, len(loops)) for row in range(len(loops))]
    scales = [
        Scale.over([_value(loop, name) for loop in loops], _top_of(i)) for i, name in enumerate(METRICS)
    ]
    every = max(1, round(_step_up(len(loops) / _MOST_NUMBERS)))
    bottom = scales[-1].bottom
    own = next((row for row, loop in enumerate(loops) if loop.inherited_from is None), None)
    width = _width(len(loops))
    return Chart(
        height=round(bottom + FOOT),
        axis_y=bottom + 18,
        dense=len(loops) > _DENSE,
        own_from=places[own] - width / 2 if own else None,
        panels=tuple(_panel(name, scale, loops, places) for name, scale in zip(METRICS, scales, strict=True)),
        columns=tuple(
            Column(
                row=row,
                loop=loop.loop,
                x=places[row],
                left=_left(places[row], width),
                width=round(min(places[row] + width / 2, 100.0) - _left(places[row], width), 3),
                mark=mark_of(loop),
                number=_number(loop.loop) if loop.loop % every == 0 else None,
                readings=tuple(
                    _reading(loop, name, scale) for name, scale in zip(METRICS, scales, strict=True)
                ),
                text=_text(loop),
            )
            for row, loop in enumerate(loops)
        ),
    )


def mark_of(loop: LoopItem) -> str:
    """Which mark a loop has."""
    if loop.is_last_sota:
        return "sota"
    return {True: "accepted", False: "rejected", None: "open"}[loop.decision]


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values of one panel are, down from its ``top``, between a lowest and a highest one."""

    low: float
    high: float
    top: float

    @classmethod
    def over(cls, values: Sequence[float | None], top: float) -> Scale:
        """A scale that has room for all of some values."""
        known = [value for value in values if value is not None]
        if not known:
            return cls(0.0, 1.0, top)
        low, high = min(known), max(known)
        # Halves, since the difference of two finite numbers need not be finite.
        spread, largest = high / 2 - low / 2, max(abs(low), abs(high))
        margin = 0.16 * spread
        if spread <= largest * 1e-9 or largest < _SMALLEST:
            margin = max(largest * 0.1, 0.01 if largest < _SMALLEST else 0.0)
        return cls(_finite(low - margin), _finite(high + margin), top)

    @property
    def bottom(self) -> float:
        """Of the plot, in pixels."""
        return self.top + HEIGHT

    def y(self, value: float) -> float:
        """Where a value is, in pixels."""
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return round(self.bottom - HEIGHT * share, 2)

    def ticks(self, *, share: bool) -> Iterator[Tick]:
        """Lines at round values, in percent for a share."""
        step = _step_up(self.high / 4 - self.low / 4)
        first = math.ceil(self.low / step)
        for number in range(first, math.floor(self.high / step) + 1):
            value = number * step
            yield Tick(self.y(value), format_tick(value, step, share=share), number == 0)


def _panel(name: str, scale: Scale, loops: Sequence[LoopItem], places: Sequence[float]) -> Panel:
    values = [_value(loop, name) for loop in loops]
    empty = all(value is None for value in values)
    return Panel(
        title=label_metric(name),
        top=scale.top,
        bottom=scale.bottom,
        ticks=() if empty else tuple(scale.ticks(share=is_share(name))),
        segments=tuple(
            Segment(places[row], scale.y(before), places[row + 1], scale.y(after))
            for row, (before, after) in enumerate(pairwise(values))
            if before is not None and after is not None
        ),
        empty=empty,
    )


def _reading(loop: LoopItem, name: str, scale: Scale) -> Reading:
    value = _value(loop, name)
    return Reading(
        title_y=scale.top - 8,
        y=None if value is None else scale.y(value),
        text="no value" if value is None else format_metric(name, value),
    )


def _text(loop: LoopItem) -> str:
    verdict = {"sota": "accepted, the SOTA", "accepted": "accepted", "rejected": "not accepted"}
    said = [f"Loop {_number(loop.loop)} ({loop.kind}): {verdict.get(mark_of(loop), 'no verdict')}"]
    if loop.inherited_from is not None:
        said.append(f"inherited from {loop.inherited_from.task_id}")
    for name in METRICS:
        value = _value(loop, name)
        said.append(f"{label_metric(name)} {'missing' if value is None else format_metric(name, value)}")
    return ", ".join(said)


def _value(loop: LoopItem, name: str) -> float | None:
    value = loop.metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _number(loop: int) -> str:
    return str(loop) if loop >= 0 else f"−{-loop}"


def _top_of(panel: int) -> float:
    return float(TITLE + panel * (HEIGHT + GAP + TITLE))


def _place(row: int, count: int) -> float:
    return 50.0 if count == 1 else round(_EDGE + (100 - 2 * _EDGE) * row / (count - 1), 3)


def _width(count: int) -> float:
    return round(min(20.0, (100 - 2 * _EDGE) / max(count - 1, 1)), 3)


def _step_up(size: float) -> float:
    """The next 1, 2 or 5 with zeros, as the steps of an axis are."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))


def _left(place: float, width: float) -> float:
    return round(max(place - width / 2, 0.0), 3)


def _finite(value: float) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, value))

"""The chart of the loops: where everything stands."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.server.chart import Chart, draw_chart
from tests.server.examples import IC, RETURN, inheriting_run, long_run, make_loop


def chart_of(*values: float | None) -> Chart:
    return draw_chart([make_loop(number, metrics={IC: value}) for number, value in enumerate(values)])


@pytest.mark.parametrize("count", [1, 3, 100])
def test_every_loop_has_its_place(count: int) -> None:
    """From left to right, all within the drawing, each with a strip of its own."""
    chart = draw_chart(long_run(count).loops.loops)
    places = [column.x for column in chart.columns]
    assert len(places) == count
    assert places == sorted(set(places))
    assert all(column.left >= 0 and column.left + column.width <= 100 for column in chart.columns)
    assert all(panel.top <= tick.y <= panel.bottom for panel in chart.panels for tick in panel.ticks)
    assert all(len(panel.ticks) >= 2 for panel in chart.panels)
    assert 1 <= sum(column.number is not None for column in chart.columns) <= 11


def test_higher_is_better() -> None:
    """A larger value stands higher in its panel, and the lines go from mark to mark."""
    chart = chart_of(0.01, 0.03)
    low, high = (column.readings[0].y for column in chart.columns)
    assert low is not None and high is not None
    assert chart.panels[0].bottom > low > high > chart.panels[0].top
    (line,) = chart.panels[0].segments
    assert (line.y1, line.y2) == (low, high)
    assert (line.x1, line.x2) == tuple(column.x for column in chart.columns)


def test_a_missing_value_leaves_a_gap() -> None:
    """No line goes over a loop without a value, and no mark stands for it."""
    chart = chart_of(0.01, 0.02, None, 0.03, math.nan)
    assert len(chart.panels[0].segments) == 1
    assert [column.readings[0].y is None for column in chart.columns] == [False, False, True, False, True]
    assert "IC missing" in chart.columns[2].text


def test_no_value_at_all() -> None:
    """A panel without any value says so and has no axis."""
    chart = chart_of(None, math.nan)
    assert [panel.empty for panel in chart.panels] == [True, True]
    assert all(not panel.ticks and not panel.segments for panel in chart.panels)


def test_marks_tell_the_decision() -> None:
    """Accepted, the SOTA, not accepted and without verdict have marks of their own, and words."""
    chart = draw_chart(inheriting_run().loops.loops)
    marks = [column.mark for column in chart.columns]
    assert marks == ["accepted", "rejected", "accepted", "open", "rejected", "sota"]
    assert chart.columns[-1].text.startswith("Loop 3 (factor): accepted, the SOTA, IC 0.0")
    assert chart.columns[0].text.startswith("Loop −2 (factor): accepted, inherited from 2026-01-01")
    assert chart.own_from is not None
    assert chart.columns[1].x < chart.own_from < chart.columns[2].x


def test_the_zero_line_is_marked() -> None:
    """Where values lie on both sides of zero, its line is told apart."""
    assert [tick.label for tick in chart_of(-0.02, 0.02).panels[0].ticks if tick.zero] == ["0.00"]


@given(
    st.lists(st.none() | st.floats(), min_size=1, max_size=6), st.lists(st.none() | st.floats(), max_size=6)
)
def test_any_values_can_be_drawn(first: list[float | None], second: list[float | None]) -> None:
    """The largest, the smallest and those that hardly differ: all that is drawn lies within its panel."""
    pairs = [(value, second[place] if place < len(second) else None) for place, value in enumerate(first)]
    chart = draw_chart(
        [make_loop(row, metrics={IC: ic, RETURN: gain}) for row, (ic, gain) in enumerate(pairs)]
    )
    for column in chart.columns:
        for panel, reading in zip(chart.panels, column.readings, strict=True):
            assert reading.y is None or panel.top <= reading.y <= panel.bottom
    assert all(len(panel.ticks) < 12 for panel in chart.panels)
    assert all(panel.top <= tick.y <= panel.bottom for panel in chart.panels for tick in panel.ticks)

"""The picture of what cuts changed."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd

from rdagent_sota_patch.lookahead.judging import Finding
from rdagent_sota_patch.lookahead.panel import Comparison
from rdagent_sota_patch.lookahead.picture import draw_changes
from tests.lookahead.test_verdicts import verdict

DAYS = pd.bdate_range("2015-01-01", periods=1200).to_numpy("datetime64[ns]")


def comparison(last: int, changed: dict[int, int]) -> Comparison:
    counts = np.zeros(last + 1, dtype=np.int64)
    for place, count in changed.items():
        counts[place] = count
    return Comparison(DAYS[last], DAYS[: last + 1], counts, np.full(last + 1, 10), 1.0, 1.0)


def rectangles(svg: str, kind: str) -> list[ET.Element]:
    return [found for found in ET.fromstring(svg).iter() if found.get("class") == kind]


def test_one_changed_day_is_seen_in_both_parts() -> None:
    """However many days share a column, and whatever the name holds."""
    finding = Finding(
        verdict('<script>"&', "code", causal=False), (comparison(300, {300: 10}), comparison(900, {5: 1}))
    )
    svg = draw_changes(finding, DAYS)
    legend = 5
    # The first cut's day is among its last thirty; the second's is not.
    assert len(rectangles(svg, "changed")) == legend + 2 + 1
    assert len(rectangles(svg, "known")) == 4
    assert "<script" not in svg
    (strong, weak) = (rectangles(svg, "changed")[place].get("opacity") for place in (0, 1))
    assert (strong, weak) == ("1.00", "0.33")


def test_everything_lies_inside() -> None:
    """Also with more days than columns, days off the calendar, and a long reason."""
    days = DAYS + np.timedelta64(1, "h")
    cut = Comparison(DAYS[1198], days[:1199], np.ones(1199, np.int64), np.ones(1199, np.int64), 1.0, 1.0)
    long = verdict("A", "a", causal=False).model_copy(update={"reason": "word " * 80})
    svg = draw_changes(Finding(long, (cut,) * 9), DAYS)
    root = ET.fromstring(svg)
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    for found in root.iter():
        if found.get("x") is not None and found.get("width") is not None:
            assert float(found.attrib["x"]) + float(found.attrib["width"]) <= width
            assert float(found.attrib["y"]) + float(found.attrib["height"]) <= height

"""The drawings of a prediction's page, as SVG: plain numbers in, text out; colours are the page's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.prediction.ranges import CLIPPED, TodaysRange

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BINS = 40
_HEIGHT = 150
_STRIP_HEIGHT = 18
_SEEN = 4.0
"""How far the strip of a feature reaches, on either side of the training's middle."""

# Widths are in percent and heights in pixels: on a phone a drawing gets narrower, and its marks and text no smaller.


def histogram(scores: NDArray[Any], top: int) -> str:
    """How many stocks have which score.

    Args:
        scores: Best first.
        top: How many of them to mark.
    """
    values = scores[np.isfinite(scores)].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high == low:
        return f"<p>All {len(values)} stocks have the same score, {low:.6g}.</p>"
    # A few bins more than stocks would only draw single stocks.
    count = max(5, min(_BINS, len(values) // 2))
    everyone, _ = np.histogram(values, bins=count, range=(low, high))
    marked, _ = np.histogram(values[:top], bins=count, range=(low, high))
    scale, width = _HEIGHT / float(everyone.max()), 100 / count
    bars = []
    for position, (every, best) in enumerate(zip(everyone, marked, strict=True)):
        x = position * width
        for number, name in ((int(every), "bar"), (int(best), "best")):
            if number:
                height = number * scale
                bars.append(
                    f'<rect class="{name}" x="{x:.2f}%" y="{_HEIGHT - height:.1f}" '
                    f'width="{0.9 * width:.2f}%" height="{height:.1f}" rx="1"/>'
                )
    ticks = "".join(f"<span>{edge:.4g}</span>" for edge in (low, (low + high) / 2, high))
    return (
        f'<svg height="{_HEIGHT}" role="img" aria-label="Histogram of {len(values)} scores from '
        f'{low:.4g} to {high:.4g}">{"".join(bars)}</svg><div class="ticks soft">{ticks}</div>'
    )


def coverage_bar(share: float) -> str:
    """A bar of a length between 0 and 1."""
    length = min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return (
        '<svg height="8" aria-hidden="true"><rect class="band" width="100%" height="8" rx="2"/>'
        f'<rect class="best" width="{100 * length:.1f}%" height="8" rx="2"/></svg>'
    )


def range_axis() -> str:
    """The scale above the strips."""
    marks = "".join(
        f'<span style="left:{_x(mark):.1f}%">{mark:.0f}</span>' for mark in (-CLIPPED, 0.0, CLIPPED)
    )
    return f'<div class="axis">{marks}</div>'


def range_strip(today: TodaysRange) -> str:
    """One feature's day: line, box and dot over the range of the training."""
    middle = _STRIP_HEIGHT // 2
    kind = ' class="out"' if today.unusual else ""
    return (
        f'<svg height="{_STRIP_HEIGHT}" role="img" aria-label="median {today.middle:.2f}, '
        f'5 % {today.low:.2f}, 95 % {today.high:.2f}"><g{kind}>'
        f'<rect class="band" x="{_x(-CLIPPED):.1f}%" width="{_x(CLIPPED) - _x(-CLIPPED):.1f}%" '
        f'height="{_STRIP_HEIGHT}"/>'
        f'<line class="rule" x1="{_x(0.0):.1f}%" x2="{_x(0.0):.1f}%" y1="0" y2="{_STRIP_HEIGHT}"/>'
        f'<line class="whisker" x1="{_x(today.low):.1f}%" x2="{_x(today.high):.1f}%" y1="{middle}" y2="{middle}"/>'
        f'<rect class="box" x="{_x(today.lower):.1f}%" width="{max(0.5, _x(today.upper) - _x(today.lower)):.1f}%" '
        f'y="{middle - 4}" height="8" rx="1"/>'
        f'<circle class="middle" cx="{_x(today.middle):.1f}%" cy="{middle}" r="3.5"/></g></svg>'
    )


def _x(value: float) -> float:
    """Where a value stands in a strip, in percent; what lies beyond its ends is drawn at the end."""
    return (min(max(value, -_SEEN), _SEEN) + _SEEN) / (2 * _SEEN) * 100

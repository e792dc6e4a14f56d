"""Times over sizes as an SVG, both axes logarithmic: ``python -m tests.proof.plot GROWTH.json PLOT.svg``."""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path

from tests.proof.scale import fit_exponent

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 760, 420, 70, 20, 300, 50
_COLOURS = ("#1b6ca8", "#c1440e", "#2e7d32", "#6a1b9a", "#795548", "#00838f")


def draw(curves: dict[str, list[list[float]]]) -> str:
    """The plot of the curves, each a list of size and seconds."""
    points = [point for curve in curves.values() for point in curve]
    low_x, high_x = _decades([size for size, _ in points])
    low_y, high_y = _decades([seconds for _, seconds in points])

    def place(size: float, seconds: float) -> tuple[float, float]:
        across = (math.log10(size) - low_x) / (high_x - low_x)
        up = (math.log10(seconds) - low_y) / (high_y - low_y)
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    ]
    for decade in range(low_x, high_x + 1):
        x, y = place(10.0**decade, 10.0**low_y)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{10**decade:,}</text>')
    for decade in range(low_y, high_y + 1):
        x, y = place(10.0**low_x, 10.0**decade)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade * 1e3:g} ms</text>'
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{_HEIGHT - 12}" text-anchor="middle">snapshots, loops, runs, rows</text>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = _TOP + 20 + 22 * number
        exponent = fit_exponent([(int(size), seconds) for size, seconds in curve])
        said = f"{escape(name)}: {exponent:.2f}"
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 16}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 32}" y="{y}">{said}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _decades(values: list[float]) -> tuple[int, int]:
    return math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(
        draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), encoding="utf-8"
    )

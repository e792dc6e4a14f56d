"""A picture of what each cut changed in a factor's past, as SVG: days across, cuts down."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from rdagent_sota_patch.lookahead.judging import Finding
    from rdagent_sota_patch.lookahead.panel import Comparison

_LABELS = 96
_WIDTH = 760
_ROW = 22
_MOST_COLUMNS = 380
_LAST_DAYS = 30
_WRAP = 112

_STYLE = """
.ground{fill:#fff}text{font:12px system-ui,sans-serif;fill:#1f2430}.title{font-size:16px;font-weight:600}
.note{fill:#5c6470}.known{fill:#e6eaf0}.future{fill:#f6f7f9}.changed{fill:#c8102e;shape-rendering:crispEdges}
.cut{stroke:#1f2430;stroke-width:1.5}
@media (prefers-color-scheme:dark){.ground{fill:#14171c}text{fill:#e8eaee}.note{fill:#9aa3af}.known{fill:#2a303a}
.future{fill:#1b1f26}.changed{fill:#ff5a6e}.cut{stroke:#e8eaee}}
"""


def draw_changes(finding: Finding, days: NDArray[np.datetime64]) -> str:
    """Draw a factor's changed values: over the whole period, and close up before each cut.

    Args:
        finding: With at least one cut.
        days: The market data's trading days, rising.

    Returns:
        An SVG document without scripts; it follows the viewer's light or dark scheme.
    """
    verdict = finding.verdict
    rows = len(finding.cuts)
    reason = _wrapped(verdict.reason)
    top = 44 + 16 * len(reason)
    close_up = top + 24 + rows * _ROW + 62
    height = close_up + rows * _ROW + 44
    width = _LABELS + _WIDTH + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(verdict.name)}: values that a cut changed</title><style>{_STYLE}</style>",
        f'<rect class="ground" width="{width}" height="{height}"/>',
        f'<text class="title" x="16" y="28">{escape(verdict.name)}</text>',
        *(
            f'<text class="note" x="16" y="{48 + 16 * n}">{escape(line)}</text>'
            for n, line in enumerate(reason)
        ),
        f'<text x="16" y="{top + 16}">Share of a day’s values that change when the data ends on …</text>',
        *_whole_period(finding.cuts, days, top + 24),
        *_axis(days, top + 24 + rows * _ROW + 16),
        f'<text x="16" y="{close_up - 8}">The last {_LAST_DAYS} days before each cut</text>',
        *_before_cuts(finding.cuts, days, close_up),
        f'<text class="note" x="{_LABELS}" y="{close_up + rows * _ROW + 16}">{_LAST_DAYS} days earlier</text>',
        f'<text class="note" x="{_LABELS + _WIDTH}" y="{close_up + rows * _ROW + 16}" '
        'text-anchor="end">last day of the data</text>',
        *_legend(close_up + rows * _ROW + 24),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _whole_period(cuts: tuple[Comparison, ...], days: NDArray[np.datetime64], top: int) -> Iterable[str]:
    columns = min(_MOST_COLUMNS, len(days))
    step = _WIDTH / columns
    for row, cut in enumerate(cuts):
        y = top + row * _ROW
        end = _LABELS + _WIDTH * (int(np.searchsorted(days, cut.last_day)) + 1) / len(days)
        yield from _row_ground(cut, y, end)
        # The strongest day of those that share a column: a single changed day must not pale away.
        strongest = np.zeros(columns)
        places = np.clip(np.searchsorted(days, cut.days), 0, len(days) - 1) * columns // len(days)
        np.maximum.at(strongest, places, _shares(cut))
        yield from _cells(strongest, step, y)
        yield f'<path class="cut" d="M{end:.1f} {y}v{_ROW - 2}"/>'


def _before_cuts(cuts: tuple[Comparison, ...], days: NDArray[np.datetime64], top: int) -> Iterable[str]:
    for row, cut in enumerate(cuts):
        y = top + row * _ROW
        yield from _row_ground(cut, y, _LABELS + _WIDTH)
        last = np.searchsorted(days, cut.last_day)
        places = np.searchsorted(days, cut.days) - last + _LAST_DAYS - 1
        shown = (places >= 0) & (places < _LAST_DAYS)
        strongest = np.zeros(_LAST_DAYS)
        np.maximum.at(strongest, places[shown], _shares(cut)[shown])
        yield from _cells(strongest, _WIDTH / _LAST_DAYS, y)


def _row_ground(cut: Comparison, y: int, end: float) -> Iterable[str]:
    day = str(cut.last_day.astype("datetime64[D]"))
    yield f'<text x="16" y="{y + 15}">{day}</text>'
    yield f'<rect class="future" x="{_LABELS}" y="{y}" width="{_WIDTH}" height="{_ROW - 2}"/>'
    yield f'<rect class="known" x="{_LABELS}" y="{y}" width="{end - _LABELS:.1f}" height="{_ROW - 2}"/>'


def _cells(strongest: NDArray[np.float64], step: float, y: int) -> Iterable[str]:
    for column in np.flatnonzero(strongest):
        # Never too faint to see.
        opacity = 0.25 + 0.75 * float(strongest[column])
        yield (
            f'<rect class="changed" x="{_LABELS + column * step:.1f}" y="{y}" width="{max(step, 1.5):.1f}" '
            f'height="{_ROW - 2}" opacity="{opacity:.2f}"/>'
        )


def _axis(days: NDArray[np.datetime64], y: int) -> Iterable[str]:
    first, middle, last = (str(days[place].astype("datetime64[D]")) for place in (0, len(days) // 2, -1))
    yield f'<text class="note" x="{_LABELS}" y="{y}">{first}</text>'
    yield f'<text class="note" x="{_LABELS + _WIDTH // 2}" y="{y}" text-anchor="middle">{middle}</text>'
    yield f'<text class="note" x="{_LABELS + _WIDTH}" y="{y}" text-anchor="end">{last}</text>'


def _legend(y: int) -> Iterable[str]:
    x = _LABELS + _WIDTH // 2 - 130
    for step in range(5):
        yield (
            f'<rect class="changed" x="{x + 40 + 18 * step}" y="{y - 16}" width="18" height="10" '
            f'opacity="{0.25 + 0.1875 * step:.2f}"/>'
        )
    yield f'<text class="note" x="{x + 36}" y="{y - 7}" text-anchor="end">few</text>'
    yield f'<text class="note" x="{x + 134}" y="{y - 7}">all of a day’s values changed</text>'


def _shares(cut: Comparison) -> NDArray[np.float64]:
    return cut.changed / np.maximum(cut.compared, 1)


def _wrapped(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= _WRAP:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

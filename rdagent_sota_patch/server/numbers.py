"""Metrics, sizes and times as a person reads them."""

from __future__ import annotations

import math
from datetime import datetime, timezone

IC = "IC"
ANNUALIZED_RETURN = "1day.excess_return_with_cost.annualized_return"
DRAWDOWN = "1day.excess_return_with_cost.max_drawdown"

COLUMNS: tuple[tuple[str, str], ...] = (
    (IC, "IC"),
    ("ICIR", "ICIR"),
    ("Rank IC", "Rank IC"),
    (ANNUALIZED_RETURN, "Annualized return"),
    (DRAWDOWN, "Max drawdown"),
)
"""The metrics that are shown first, by Qlib's name, and what they are called here; the two returns are after costs."""

FIGURES: tuple[tuple[str, str, str], ...] = (
    ("ic_mean", "IC", ".4f"),
    ("ic_t", "t", ".1f"),
    ("rank_ic_mean", "Rank IC", ".4f"),
    ("rank_ic_t", "t", ".1f"),
    ("rank_icir", "ICIR", ".2f"),
    ("rank_ic_5d", "5 days", ".4f"),
    ("rank_ic_10d", "10 days", ".4f"),
    ("rank_ic_20d", "20 days", ".4f"),
    ("turnover", "Turnover", ".1%"),
    ("autocorrelation", "Autocorr.", ".2f"),
    ("coverage", "Coverage", ".1%"),
    ("quantile_spread", "Top − low", ".2%"),
)
"""Figures of a single factor: by its field in the API's answer, its column's name, and how it is written."""

_LABELS = dict(COLUMNS)
_SHARES = frozenset({ANNUALIZED_RETURN, DRAWDOWN})
_MISSING = "–"
_LARGE = 1e5


def label_metric(name: str) -> str:
    """What a metric is called on the page; Qlib's name for others."""
    return _LABELS.get(name, name)


def is_share(name: str) -> bool:
    """Whether a metric is shown in percent."""
    return name in _SHARES


def format_metric(name: str, value: float | None) -> str:
    """A metric's value: four places, or percent with two; a dash for a missing one."""
    if value is None or not math.isfinite(value):
        return _MISSING
    if abs(value) >= _LARGE:
        return _signed(f"{value:.3e}")
    return _signed(f"{100 * value:.2f} %" if is_share(name) else f"{value:.4f}")


def format_figure(value: float | None, form: str) -> str:
    """A figure of a single factor; a dash for a missing one."""
    return _MISSING if value is None else _signed(format(value, form).replace("%", " %"))


def format_tick(value: float, step: float, *, share: bool) -> str:
    """A value of an axis whose values are ``step`` apart."""
    if step >= _LARGE or abs(value) >= _LARGE:
        return _signed(f"{value:.3g}")
    value, step = (100 * value, 100 * step) if share else (value, step)
    unit = " %" if share else ""
    if step < 1e-6:
        return _signed(f"{value:.3g}{unit}")
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    return _signed(f"{round(value, places) + 0:.{places}f}{unit}")


def format_size(size: int) -> str:
    """A size in bytes, rounded."""
    if size < 1000:
        return f"{size} bytes"
    number = float(size)
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.5 or unit == "GB":
            return f"{number:.0f} {unit}" if number >= 9.95 else f"{number:.1f} {unit}"
    raise AssertionError("unreachable")


def format_time(text: str) -> str:
    """A time in ISO 8601 with offset as minutes in UTC; another text as it is."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return text
    return text if time.tzinfo is None else f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC"


def _signed(text: str) -> str:
    return f"−{text[1:]}" if text.startswith("-") else text

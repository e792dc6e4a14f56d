"""Numbers, sizes and times as a person reads them."""

from __future__ import annotations

import math

import pytest

from rdagent_sota_patch.server.numbers import (
    ANNUALIZED_RETURN,
    format_metric,
    format_size,
    format_tick,
    format_time,
    label_metric,
)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("IC", 0.15744, "0.1574"),
        ("IC", -0.5, "−0.5000"),
        ("IC", None, "–"),
        ("IC", math.nan, "–"),
        ("IC", math.inf, "–"),
        ("IC", -1e300, "−1.000e+300"),
        (ANNUALIZED_RETURN, 0.26123, "26.12 %"),
        (ANNUALIZED_RETURN, -1.7e308, "−1.700e+308"),
    ],
)
def test_metrics(name: str, value: float | None, text: str) -> None:
    """Four places, returns in percent, a dash for what is missing, and no number that fills the page."""
    assert format_metric(name, value) == text


@pytest.mark.parametrize(
    ("value", "step", "share", "text"),
    [
        (0.02, 0.01, False, "0.02"),
        (-0.0, 0.01, False, "0.00"),
        (0.15, 0.05, True, "15 %"),
        (-0.005, 0.005, True, "−0.5 %"),
        (1e308, 5e307, True, "1e+308"),
        (1e-9, 1e-9, False, "1e-09"),
    ],
)
def test_ticks(value: float, step: float, share: bool, text: str) -> None:
    """As many places as the axis' steps have."""
    assert format_tick(value, step, share=share) == text


def test_sizes() -> None:
    """Two digits, or three."""
    texts = [format_size(size) for size in (0, 999, 1000, 21_345, 999_600, 12_345_678, 5 * 10**12)]
    assert texts == ["0 bytes", "999 bytes", "1.0 kB", "21 kB", "1.0 MB", "12 MB", "5000 GB"]


def test_times() -> None:
    """Minutes in UTC; what is not a time stays."""
    assert format_time("2026-03-04T05:06:07.890+02:00") == "2026-03-04 03:06 UTC"
    assert format_time("2026-03-04T05:06:07Z") == "2026-03-04 05:06 UTC"
    assert format_time("yesterday") == "yesterday"
    assert format_time("2026-03-04T05:06:07") == "2026-03-04T05:06:07"


def test_names_of_metrics() -> None:
    """Those that are shown first have short names, others Qlib's."""
    assert label_metric(ANNUALIZED_RETURN) == "Annualized return"
    assert label_metric("1day.ffr") == "1day.ffr"

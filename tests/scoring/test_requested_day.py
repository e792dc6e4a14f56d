"""What ``--date`` names."""

from __future__ import annotations

from datetime import date

import pytest

from rdagent_sota_patch.scoring.requested_day import DaysAsked, parse_days

_FIRST, _LAST = date(2026, 11, 2), date(2026, 11, 20)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("latest", DaysAsked(None, None, False)),
        ("2026-11-20", DaysAsked(_LAST, _LAST, False)),
        ("20261120", DaysAsked(_LAST, _LAST, False)),
        ("2026-11-02..2026-11-20", DaysAsked(_FIRST, _LAST, True)),
        ("20261102:20261120", DaysAsked(_FIRST, _LAST, True)),
        ("20261102..latest", DaysAsked(_FIRST, None, True)),
    ],
)
def test_every_way_to_name_days(text: str, asked: DaysAsked) -> None:
    """A day, the latest one, or both ends of a range."""
    assert parse_days(text) == asked


@pytest.mark.parametrize(
    "text", ["", "2026-1-2", "2026111", "latest..20261120", "20261120..20261102", "..", "a:b:c"]
)
def test_what_is_no_day(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r"day|ends"):
        parse_days(text)

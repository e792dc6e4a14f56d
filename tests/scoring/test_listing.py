"""What is shown beside a score."""

from __future__ import annotations

from datetime import date

from rdagent_sota_patch.scoring.top_list import Listing, bars


def test_bars_tell_a_top_list_apart() -> None:
    """From the lowest of the list, which has a trace of a bar, to the highest; equal scores are equal bars."""
    drawn = bars([0.105, 0.1025, 0.1], width=4)
    assert drawn == ["████", "██", "▏"]
    assert bars([1.0, 1.0]) == ["█" * 10] * 2
    assert bars([]) == []


def test_changes_in_rank() -> None:
    """Up is plus; without a rank on the day before a stock is new; without that day nothing is said."""
    listing = Listing(before=date(2020, 10, 29), ranks_before={"A": 5, "B": 1, "C": 3})
    changes = [listing.change(name, rank) for name, rank in (("A", 1), ("B", 2), ("C", 3), ("D", 4))]
    assert changes == ["+4", "-1", "=", "new"]
    assert Listing().change("A", 1) == ""

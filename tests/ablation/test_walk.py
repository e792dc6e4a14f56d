"""Windows: what trains is before what tests, with a gap for what labels see."""

from __future__ import annotations

import pytest

from rdagent_sota_patch.ablation.walk import Walk, find_horizon, lay_windows
from rdagent_sota_patch.errors import SotaError


def test_the_later_half_is_tested_on_in_equal_parts() -> None:
    """No day is tested twice, and none is left out."""
    windows = lay_windows(400, Walk(4, horizon=2))
    assert [window.test for window in windows] == [(200, 250), (250, 300), (300, 350), (350, 400)]
    assert all(window.train[0] == 0 for window in windows)


@pytest.mark.parametrize("embargo", [0, 5])
def test_labels_do_not_see_into_the_next_segment(embargo: int) -> None:
    """A label of day t needs prices up to t + 2: these days lie before the next segment."""
    for window in lay_windows(400, Walk(4, horizon=2, embargo=embargo)):
        gap = 2 + embargo
        assert window.valid[0] - window.train[1] == gap
        assert window.test[0] - window.valid[1] == gap


def test_rolling_windows_train_on_as_many_days() -> None:
    windows = lay_windows(400, Walk(4, horizon=2, rolling=True))
    assert windows[0].train == lay_windows(400, Walk(4, horizon=2))[0].train
    assert windows[-1].train[0] > 0
    lengths = {window.train[1] - window.train[0] for window in windows}
    assert len(lengths) == 1


def test_too_few_days_are_an_error_that_names_what_is_possible() -> None:
    """30 windows of 200 days would be tested on 3 days each; 10 have ten days."""
    with pytest.raises(SotaError, match=r"tested on 3;.*\n.*--windows 10 is the most") as error:
        lay_windows(200, Walk(30, horizon=2))
    assert error.value.slug == "too-few-days-for-windows"


def test_too_few_days_to_train_on() -> None:
    with pytest.raises(SotaError, match="Name data with more days"):
        lay_windows(60, Walk(2, horizon=2))


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("Ref($close, -2)/Ref($close, -1) - 1", 2),
        ("Ref($close, 5)/$close", 0),
        ("Ref(Ref($close, -5) / $open, -1)", 6),
        ("Mean(Ref($close, -10), 5)", 10),
    ],
)
def test_horizon(expression: str, days: int) -> None:
    """How far a label looks ahead: its negative ``Ref``s, added up where they are nested."""
    assert find_horizon(expression) == days

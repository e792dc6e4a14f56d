from __future__ import annotations

from datetime import date

import pytest

from rdagent_sota_patch.errors import SettingsError
from rdagent_sota_patch.factor_table.segments import Segments

TEXTS: dict[str, str | None] = {
    "train_start": "2008-01-01",
    "train_end": "2014-12-31",
    "valid_start": "2015-01-01",
    "valid_end": "2016-12-31",
    "test_start": "2017-01-01",
    "test_end": "2020-08-01",
}


def test_reads_the_dates_of_a_run() -> None:
    """The six dates become the three segments."""
    assert Segments.parse(TEXTS).spans() == (
        ("train", date(2008, 1, 1), date(2014, 12, 31)),
        ("valid", date(2015, 1, 1), date(2016, 12, 31)),
        ("test", date(2017, 1, 1), date(2020, 8, 1)),
    )


@pytest.mark.parametrize("absent", ["", "  ", None])
def test_an_open_end(absent: str | None) -> None:
    """Without a last day the test runs to the end of the data."""
    assert Segments.parse({**TEXTS, "test_end": absent}).test_end is None
    assert Segments.parse({name: text for name, text in TEXTS.items() if name != "test_end"}).test_end is None


def test_a_time_of_day_does_not_matter() -> None:
    """Qlib accepts a time with the date, and so does this."""
    assert Segments.parse({**TEXTS, "train_start": "2008-01-01 00:00:00"}) == Segments.parse(TEXTS)


def test_all_bad_dates_are_reported_together() -> None:
    """A missing, an unreadable and a reversed date each have their own problem."""
    texts = {**TEXTS, "train_start": None, "valid_start": "2015-13-01", "test_end": "2016-01-01"}
    with pytest.raises(SettingsError) as caught:
        Segments.parse(texts)
    messages = [problem.message for problem in caught.value.problems]
    assert {problem.slug for problem in caught.value.problems} == {"bad-setting"}
    assert messages == [
        "train_start is not set.",
        "valid_start: '2015-13-01' is not a date.",
        "The test segment starts 2017-01-01, after its end 2016-01-01.",
    ]

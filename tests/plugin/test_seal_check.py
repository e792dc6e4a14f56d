"""What keeps a run from being sealed."""

from __future__ import annotations

from datetime import date

import pytest

from rdagent_sota_patch.plugin import seal_check

DAY = date(2020, 3, 2)
LATEST = date(2020, 2, 27)


@pytest.mark.parametrize(
    ("given", "edge", "words"),
    [
        ("2020-02-27", "test_end", ""),
        ("2020-02-28", "test_end", "no later trading day is left before 2020-03-02"),
        ("2020-03-02", "test_end", "ends on 2020-03-02, which is sealed"),
        ("2020-03-02", "test_start", "starts on 2020-03-02, which is sealed"),
        ("2020-02-28", "valid_end", ""),
        ("2021-01-01 00:00:00", "train_end", "ends on 2021-01-01, which is sealed"),
        (None, "test_end", "gives no day"),
        ("null", "test_end", "gives no day"),
        (None, "train_end", ""),
        ("soon", "test_end", "is not a date"),
    ],
)
def test_a_segment_has_to_end_before_the_seal(given: str | None, edge: str, words: str) -> None:
    """With a day left for Qlib's executor; the hint names what to set, and to which day."""
    problems = list(seal_check._judge(given, edge, (DAY, LATEST), "QLIB_MODEL_X", "model"))
    assert [words in problem.message for problem in problems] == [True] * bool(words)
    if words and "date" not in words:
        assert "Set QLIB_MODEL_X to 2020-02-27 or an earlier day" in problems[0].hint

"""The train, valid and test segments of a run, as Qlib's dataset splits the days."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HINT = "Correct the dates of the run: QLIB_MODEL_TRAIN_START … QLIB_MODEL_TEST_END, written YYYY-MM-DD."


@dataclass(frozen=True, slots=True)
class Segments:
    """First and last day of each segment, both included (``rdagent/app/qlib_rd_loop/conf.py``).

    Attributes:
        test_end: None lets the test run to the end of the market's data.
    """

    train_start: date
    train_end: date
    valid_start: date
    valid_end: date
    test_start: date
    test_end: date | None = None

    @classmethod
    def parse(cls, texts: Mapping[str, str | None]) -> Segments:
        """Read the segments from ISO dates by field name; an absent or empty ``test_end`` is None.

        Raises:
            SettingsError: ``bad-setting``, for every date that is missing, unreadable or out of order.
        """
        problems: list[Problem] = []
        days: dict[str, date] = {}
        for name in ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end"):
            text = (texts.get(name) or "").strip()
            if not text:
                if name != "test_end":
                    problems.append(Problem("bad-setting", f"{name} is not set.", _HINT))
                continue
            try:
                # Qlib takes a time of day as well; only the day matters to daily data.
                days[name] = datetime.fromisoformat(text).date()
            except ValueError:
                problems.append(Problem("bad-setting", f"{name}: {text!r} is not a date.", _HINT))
        for segment in ("train", "valid", "test"):
            start, end = days.get(f"{segment}_start"), days.get(f"{segment}_end")
            if start is not None and end is not None and start > end:
                problems.append(
                    Problem(
                        "bad-setting", f"The {segment} segment starts {start}, after its end {end}.", _HINT
                    )
                )
        if problems:
            raise SettingsError.of(problems)
        return cls(
            train_start=days["train_start"],
            train_end=days["train_end"],
            valid_start=days["valid_start"],
            valid_end=days["valid_end"],
            test_start=days["test_start"],
            test_end=days.get("test_end"),
        )

    def spans(self) -> tuple[tuple[str, date, date | None], ...]:
        """Name, first and last day of each segment, in order of time."""
        return (
            ("train", self.train_start, self.train_end),
            ("valid", self.valid_start, self.valid_end),
            ("test", self.test_start, self.test_end),
        )

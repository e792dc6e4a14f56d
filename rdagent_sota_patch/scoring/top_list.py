"""What is shown beside a stock's score: its name and industry from the user's file, its rank on the day before."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date
    from pathlib import Path

    import pandas as pd

_HINT = "A CSV in UTF-8 with the columns instrument, name and, if wanted, industry; one line for each stock."
_BAR = "▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Listed:
    """A stock's name and industry, empty where the file has none."""

    name: str = ""
    industry: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list of scores has beside them.

    Attributes:
        stocks: By instrument; None without a file of names.
        before: The trading day before, where its scores could be computed.
        ranks_before: The ranks on that day by instrument.
    """

    stocks: Mapping[str, Listed] | None = None
    before: date | None = None
    ranks_before: Mapping[str, int] = field(default_factory=dict)

    def change(self, instrument: str, rank: int) -> str:
        """How many places a stock went up (``+3``) or down since the day before; "new" if it had no rank then."""
        if self.before is None:
            return ""
        earlier = self.ranks_before.get(instrument)
        if earlier is None:
            return "new"
        return f"{earlier - rank:+d}" if earlier != rank else "="

    def of(self, instrument: str) -> Listed:
        """Name and industry."""
        return (self.stocks or {}).get(instrument) or Listed()

    def name_in(self, frame: pd.DataFrame) -> pd.DataFrame:
        """``frame`` with the columns name and industry after instrument, its first, where there is a file of names."""
        if self.stocks is None:
            return frame
        named: pd.DataFrame = frame.copy()
        for place, column in enumerate(("name", "industry"), start=1):
            values = [getattr(self.of(str(one)), column) for one in frame["instrument"]]
            named.insert(place, column, values)
        return named


def read_names(path: Path) -> dict[str, Listed]:
    """A file of names, by instrument as Qlib spells it.

    Raises:
        BundleError: ``bad-names-file``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            missing = {"instrument", "name"} - set(reader.fieldnames or ())
            if missing:
                raise _bad(path, f"has no column {' and no column '.join(sorted(missing))}")
            found: dict[str, Listed] = {}
            for row in reader:
                instrument = (row["instrument"] or "").strip()
                if instrument in found:
                    raise _bad(path, f"has {instrument} twice (line {reader.line_num})")
                found[instrument] = Listed((row["name"] or "").strip(), (row.get("industry") or "").strip())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, f"cannot be read: {error}") from error
    return found


def bars(scores: Sequence[float], width: int = 10) -> list[str]:
    """A bar for each score of a list, from the lowest in it to the highest, so that a top list can be told apart."""
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    drawn = []
    for score in scores:
        share = (score - low) / (high - low) if high > low else 1.0
        eighths = max(1, round(share * width * 8))
        drawn.append("█" * (eighths // 8) + (_BAR[eighths % 8 - 1] if eighths % 8 else ""))
    return drawn


def _bad(path: Path, what: str) -> BundleError:
    return BundleError("bad-names-file", f"{path} {what}.", _HINT)

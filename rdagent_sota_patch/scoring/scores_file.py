"""Writing a day's scores: CSV or parquet, by the file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from rdagent_sota_patch.scoring.prediction import Prediction

SUFFIXES = (".csv", ".parquet")


_TEXTS = ("instrument", "name", "industry")
_BEGIN_FORMULAS = ("=", "+", "-", "@", "\t", "\n")


def _as_text(cell: object) -> str:
    # Python quotes no cell for a carriage return, and what follows it would begin a line.
    text = str(cell).replace("\r", "\\r")
    return f"'{text}" if text.startswith(_BEGIN_FORMULAS) else text


def require_suffix(target: Path) -> None:
    """See that a file's name says in which format it is to be.

    Raises:
        BundleError: ``unknown-format``.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise BundleError(
            "unknown-format",
            f"{target} ends neither in {' nor in '.join(SUFFIXES)}.",
            "The ending of --out says what is written.",
        )


def write_scores(prediction: Prediction, target: Path) -> None:
    """Write a prediction's frame: columns instrument, score, rank, and the features if they were wanted."""
    write_frame(prediction.frame, target)


def write_frame(frame: pd.DataFrame, target: Path) -> None:
    """Write a list of scores, atomically, as CSV or parquet.

    Numbers in CSV are written so that reading gives the same bits. Text that a spreadsheet would take for a formula
    gets an apostrophe in front there, as spreadsheets themselves mark text; in parquet it is as it is.

    Raises:
        BundleError: ``unknown-format``.
        SotaError: ``cannot-write``.
    """
    require_suffix(target)
    with replace_atomically(target) as temporary:
        if target.suffix.lower() == ".csv":
            texts = {name: frame[name].map(_as_text) for name in _TEXTS if name in frame}
            plain = frame.assign(**texts).rename(columns=_as_text)
            plain.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False)

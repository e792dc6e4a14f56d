"""Writing a day's scores: CSV or parquet, by the file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.prediction.prediction import Prediction

SUFFIXES = (".csv", ".parquet")


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
    """Write a prediction's frame, atomically: columns instrument, score, rank, and the features if they were wanted.

    Numbers in CSV are written so that reading gives the same bits.

    Raises:
        BundleError: ``unknown-format``.
        SotaError: ``cannot-write``.
    """
    require_suffix(target)
    frame = prediction.frame
    with replace_atomically(target) as temporary:
        if target.suffix.lower() == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False)

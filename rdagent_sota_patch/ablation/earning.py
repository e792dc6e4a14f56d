"""Does a factor earn its place? What models lose without it, over windows, and with what certainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.walk import Window

Verdict = Literal["helps", "does not", "cannot be told"]

ALPHA = 0.05
LEAST = 0.002
"""A change of the IC that is not worth a factor."""


@dataclass(frozen=True, slots=True)
class Change:
    """How much lower a mean IC is than another, paired by windows.

    Attributes:
        mean: Over the windows.
        error: Standard error of ``mean``; NaN for a single window.
        windows: In how many it is above 0.
        p: That a mean as high comes from none, one-sided; 1 where it cannot be told.
        upper: What the change is below with 95 %.
    """

    mean: float
    error: float
    windows: int
    p: float
    upper: float


def overlap_of(windows: Sequence[Window]) -> float:
    """Test days over training days, on average: how much of what one window shows, the next shows again."""
    return float(np.mean([(w.test[1] - w.test[0]) / (w.valid[1] - w.train[0]) for w in windows]))


def compare(better: NDArray[np.float64], worse: NDArray[np.float64], overlap: float) -> Change:
    """Weigh the difference of two specs' ICs.

    A window's difference is the mean over its seeds. Windows share training days, so their differences vary together
    and a plain t test is too sure: the variance takes Nadeau's and Bengio's correction (2003), (1/W + test/train).

    Args:
        better: ICs, shape (windows, seeds).
        worse: Likewise, of the same windows and seeds.
        overlap: See `overlap_of`.
    """
    from scipy.stats import t

    differences = (better - worse).mean(axis=1)
    count, mean = len(differences), float(differences.mean())
    helped = int((differences > 0).sum())
    if count < 2:
        return Change(mean, float("nan"), helped, 1.0, float("inf"))
    error = float(np.sqrt(differences.var(ddof=1) * (1 / count + overlap)))
    if error == 0:
        return Change(mean, 0.0, helped, 0.0 if mean > 0 else 1.0, mean)
    p = float(t.sf(mean / error, count - 1))
    return Change(mean, error, helped, p, mean + float(t.ppf(1 - ALPHA, count - 1)) * error)


def correct(ps: Sequence[float]) -> list[float]:
    """p values after Holm's correction: so many factors were tried."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(ps, alpha=ALPHA, method="holm")[1]] if ps else []


def judge(change: Change, corrected: float) -> Verdict:
    """The verdict of a factor: what was not shown is not denied."""
    if corrected < ALPHA and change.mean > 0:
        return "helps"
    return "does not" if change.upper < LEAST else "cannot be told"


def standard_error(ics: NDArray[np.float64]) -> float:
    """Of the mean IC of a spec, over windows; shape (windows, seeds). Infinite for a single window."""
    means = ics.mean(axis=1)
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("inf")

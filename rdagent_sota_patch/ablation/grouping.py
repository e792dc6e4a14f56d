"""Features that say the same: near copies and monotone rewrites of each other."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rdagent_sota_patch.ablation.arrays import DAYS, FEATURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.arrays import Arrays

UPSTREAMS = 0.99
"""At which RD-Agent drops a new factor (``factor_runner.py``, ``deduplicate_new_factors``)."""
_MOST_DAYS = 250
_FEWEST_STOCKS = 5


@dataclass(frozen=True, slots=True)
class Group:
    """Factors of which one says what all say.

    Attributes:
        members: The first is kept where the others are dropped.
        alpha: The Alpha feature that says the same; None without one.
    """

    members: tuple[str, ...]
    alpha: str | None = None

    @property
    def name(self) -> str:
        """Of its first member."""
        return self.members[0]


def find_dead(arrays: Arrays, names: Sequence[str]) -> tuple[str, ...]:
    """Which features have one value everywhere, or none."""
    features = arrays.load(FEATURES)
    return tuple(name for name in names if not _varies(features[arrays.names.index(name)]))


def _varies(values: NDArray[np.float32]) -> bool:
    known = values[~np.isnan(values)]
    return bool(len(known)) and bool(known.min() < known.max())


def find_groups(
    arrays: Arrays, mined: Sequence[str], alpha: Sequence[str], correlation: float
) -> tuple[Group, ...]:
    """Group mined factors by their correlation across stocks, plain or of ranks, on average over days.

    As RD-Agent drops them: each is held against the first of every group there is, so that no chain joins what is
    not alike. Of the signs of a correlation none matters: a tree splits at either.

    Args:
        arrays: The features.
        mined: The factors, in order.
        alpha: The Alpha features beside them.
        correlation: From which on two say the same, 0 to 1.
    """
    names = (*alpha, *mined)
    alike = np.nan_to_num(_correlations(arrays, names)) >= correlation
    leaders: list[int] = list(range(len(alpha)))
    members: dict[int, list[str]] = {leader: [] for leader in leaders}
    for place, name in enumerate(names[len(alpha) :], start=len(alpha)):
        leader = next((leader for leader in leaders if alike[place, leader]), None)
        if leader is None:
            leaders.append(leader := place)
        members.setdefault(leader, []).append(name)
    return tuple(
        Group(tuple(found), names[leader] if leader < len(alpha) else None)
        for leader, found in members.items()
        if found
    )


def _correlations(arrays: Arrays, names: Sequence[str]) -> NDArray[np.float64]:
    """The larger of two features' mean absolute correlations, plain and of ranks; NaN where there is none."""
    places = [arrays.names.index(name) for name in names]
    features, days = arrays.load(FEATURES), arrays.load(DAYS)
    edges = np.searchsorted(days, np.arange(len(arrays.days) + 1))
    chosen = np.unique(np.linspace(0, len(arrays.days) - 1, _MOST_DAYS).round().astype(int))
    plain, ranked = [], []
    for day in chosen:
        frame = pd.DataFrame(
            np.asarray(features[:, edges[day] : edges[day + 1]])[places].T.astype(np.float64)
        )
        frame = frame.where(np.isfinite(frame))
        plain.append(frame.corr(min_periods=_FEWEST_STOCKS).to_numpy())
        ranked.append(frame.rank().corr(min_periods=_FEWEST_STOCKS).to_numpy())
    with warnings.catch_warnings():
        # Of features that never vary.
        warnings.simplefilter("ignore", RuntimeWarning)
        both = np.fmax(np.abs(np.nanmean(plain, axis=0)), np.abs(np.nanmean(ranked, axis=0)))
    result: NDArray[np.float64] = both
    return result

"""Features that say the same: near copies and monotone rewrites of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.ablation.arrays import DAYS, FEATURES
from rdagent_sota_patch.factor_table.duplicates import MeanCorrelations
from rdagent_sota_patch.factor_table.metrics import OrderedDays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.arrays import Arrays

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

    More are alike than by RD-Agent's rule (`DUPLICATE_FROM`): of the signs of a correlation none matters, since a tree
    splits at either, and ranks count. Each is held against the first of every group there is, so that no chain joins
    what is not alike.

    Args:
        arrays: The features.
        mined: The factors, in order.
        alpha: The Alpha features beside them.
        correlation: From which on two say the same, 0 to 1.
    """
    names = (*alpha, *mined)
    alike = np.nan_to_num(_correlations(arrays, names)) >= correlation
    members: dict[int, list[str]] = {place: [] for place in range(len(alpha))}
    for place, name in enumerate(names[len(alpha) :], start=len(alpha)):
        leader = next((each for each in members if alike[place, each]), place)
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
    plain, ranked = (MeanCorrelations(len(names), _FEWEST_STOCKS) for _ in range(2))
    for day in chosen:
        values = np.asarray(features[:, edges[day] : edges[day + 1]])[places].astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        plain.add(values[:, None])
        ranked.add(OrderedDays(values).rank(~np.isnan(values))[:, None])
    both: NDArray[np.float64] = np.fmax(np.abs(plain.means()), np.abs(ranked.means()))
    return both

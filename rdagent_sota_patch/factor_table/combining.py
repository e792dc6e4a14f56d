"""Which features a model is fed once mined factors and RD-Agent's Alpha features are put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """The features of a model.

    Attributes:
        alpha: Alpha features that remain, in the order given.
        sota: Mined factors, in the order given.
        shared: Names borne by both; the mined factor takes the Alpha's place
            (``qlib/data/dataset/loader.py``, ``NestedDataLoader.load``).
        order: The model's input order: lexicographic over all names, because the same ``load`` ends with
            ``sort_index(axis=1)``. Another order raises no error and gives other predictions.
    """

    alpha: tuple[str, ...]
    sota: tuple[str, ...]
    shared: tuple[str, ...]
    order: tuple[str, ...]

    @property
    def count(self) -> int:
        """Number of features, the model's input size."""
        return len(self.order)


def combine_features(alpha: Iterable[str], sota: Iterable[str], use_alpha: bool) -> FeatureSet:
    """Put Alpha features and mined factors together; without ``use_alpha`` the mined ones alone."""
    mined = tuple(dict.fromkeys(sota))
    given = tuple(dict.fromkeys(alpha)) if use_alpha else ()
    shared = tuple(name for name in mined if name in given)
    kept = tuple(name for name in given if name not in shared)
    return FeatureSet(alpha=kept, sota=mined, shared=shared, order=tuple(sorted(kept + mined)))


def summarize(features: FeatureSet) -> str:
    """The features in one line: "3 SOTA + 20 Alpha, 1 name shared → 22 features"."""
    parts = [f"{len(features.sota)} SOTA"]
    alpha = len(features.alpha) + len(features.shared)
    if alpha:
        parts.append(f"{alpha} Alpha")
    names = "name" if len(features.shared) == 1 else "names"
    shared = f", {len(features.shared)} {names} shared" if features.shared else ""
    return f"{' + '.join(parts)}{shared} → {features.count} features"

"""How a day's feature values lie against those that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.scoring.booster import read_trained_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from rdagent_sota_patch.bundle.documents import Processor
    from rdagent_sota_patch.bundle.opening import Bundle

CLIPPED = 3.0
"""Where Qlib's ``RobustZScoreNorm`` cuts off."""

_FAR = 1.5
_MANY_OUTSIDE = 0.1
_SHARES = (5, 25, 50, 75, 95)
_RAW = frozenset({"Fillna", "DropnaLabel", "CSRankNorm"})
"""Processors that leave the features' values as they are, or are about the label."""


@dataclass(frozen=True, slots=True)
class TodaysRange:
    """One feature's values on a day, in units of the training (`TrainedScale`).

    Attributes:
        low, lower, middle, upper, high: What 5, 25, 50, 75 and 95 % of the stocks stay below.
        outside: Share of the stocks beyond 3 on either side, 0 to 1.
        unusual: Whether the day is unlike the training: many stocks far out, or the median far from its mean.
    """

    low: float
    lower: float
    middle: float
    upper: float
    high: float
    outside: float
    unusual: bool


@dataclass(frozen=True, slots=True)
class TrainedScale:
    """In which units to look at a day's values.

    Attributes:
        units: By feature, what is 0 and what is 1.
        observed: Whether 3 on either side is the lowest and highest value of the training, and not
            three times a fitted spread.
    """

    units: Mapping[str, tuple[float, float]]
    observed: bool


def scale_of(bundle: Bundle) -> TrainedScale:
    """What the bundle knows of its training's values.

    That is what a processor was fitted to; or, where a LightGBM model got raw values, the lowest and highest
    of each column, which its text holds.
    """
    order, meta = bundle.model
    units = fitted_units(meta.processors)
    if units or meta.weights.booster_relpath is None or {one.name for one in meta.processors} - _RAW:
        return TrainedScale(units, observed=False)
    text = bundle.read(meta.weights.booster_relpath).decode("utf-8")
    ranges = read_trained_ranges(text, order.factor_order)
    spans = {name: (low, high) for name, (low, high) in ranges.items() if high > low}
    return TrainedScale(
        {name: ((low + high) / 2, (high - low) / (2 * CLIPPED)) for name, (low, high) in spans.items()},
        observed=True,
    )


def fitted_units(processors: Sequence[Processor]) -> dict[str, tuple[float, float]]:
    """Mean and spread that the first fitted processor has for each column; a later one saw its results."""
    for processor in processors:
        if processor.columns is not None and processor.mean is not None and processor.std is not None:
            numbers = zip(processor.columns, processor.mean, processor.std, strict=True)
            return {name: (mean, std) for name, mean, std in numbers if mean is not None and std}
    return {}


def hold_against_training(features: pd.DataFrame, scale: TrainedScale) -> dict[str, TodaysRange]:
    """The ranges of all features that the scale has numbers for.

    Args:
        features: Raw values of a day, index instrument, one column per feature.
        scale: Of the training.

    Returns:
        By feature, in the order of ``features``.
    """
    ranges = {}
    for name in features.columns:
        values = features[name].to_numpy(dtype=np.float64)
        values = values[np.isfinite(values)]
        if name in scale.units and len(values):
            middle, unit = scale.units[name]
            scaled = (values - middle) / unit
            outside = float((np.abs(scaled) > CLIPPED).mean())
            low, lower, median, upper, high = (float(value) for value in np.percentile(scaled, _SHARES))
            unusual = outside > _MANY_OUTSIDE or (not scale.observed and abs(median) > _FAR)
            ranges[str(name)] = TodaysRange(low, lower, median, upper, high, outside, unusual)
    return ranges

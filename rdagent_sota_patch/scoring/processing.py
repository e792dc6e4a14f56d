"""The handler's ``infer_processors``, from their fitted numbers, to the last bit as Qlib applies them.

Each rule is that of ``qlib/data/dataset/processor.py``. Qlib applies them to a frame that holds the label beside the
features; a rule for the label alone does nothing here, and one for all columns reaches the features.

Where Qlib's arithmetic depends on the type of number, so does this: a processor's numbers were fitted on its columns as
one array, so they have those columns' common type, and what they are applied to takes that type, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.bundle.documents import QLIB_PROCESSORS
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rdagent_sota_patch.bundle.documents import Processor

# `qlib.utils.data.robust_zscore`, and the clip of `RobustZScoreNorm`.
_OUTLIER = 3
_MAD_TO_STD = 1.4826

_FEATURES = "feature"


def process(raw: pd.DataFrame, processors: Sequence[Processor]) -> pd.DataFrame:
    """Apply processors in their order.

    Args:
        raw: Feature values as Qlib's loader gives them: index (datetime, instrument), a column per feature, float32
            or float64. Not changed. For processors that look across a day's stocks, every row of each day.
        processors: From ``model_meta.json``.

    Returns:
        As many columns in the same order, except where a processor takes columns out; fewer rows where one drops rows.

    Raises:
        BundleError: ``processor-unknown``, for all of them at once, or ``bundle-damaged`` where one was never fitted.
    """
    require_known(processors)
    frame: pd.DataFrame = raw.copy()
    for processor in processors:
        if _concerns_features(processor):
            frame = _RULES[processor.name](frame, processor)
    return frame


def require_known(processors: Sequence[Processor]) -> None:
    """See that every processor can be applied here.

    Raises:
        BundleError: ``processor-unknown``, naming all that cannot.
    """
    unknown = [
        f"{processor.module}.{processor.name}"
        for processor in processors
        if processor.name not in _RULES or processor.module != QLIB_PROCESSORS
    ]
    if unknown:
        raise BundleError(
            "processor-unknown",
            f"The model's features go through {', '.join(unknown)}, which this release cannot apply.",
            f"Known are {', '.join(sorted(_RULES))} of Qlib. Score this model with Qlib itself.",
        )


def _concerns_features(processor: Processor) -> bool:
    group = processor.options.fields_group
    groups = group if isinstance(group, list) else [group]
    return None in groups or _FEATURES in groups


def _standardize(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    """``ZScoreNorm`` and ``MinMaxNorm``: subtract, divide."""
    columns, shift, scale = _fitted(frame, processor)
    return _put(frame, columns, (frame[columns].to_numpy(shift.dtype) - shift) / scale)


def _standardize_robustly(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    columns, shift, scale = _fitted(frame, processor)
    values = frame[columns].to_numpy(shift.dtype, copy=True)
    values -= shift
    values /= scale
    if processor.options.clip_outlier:
        np.clip(values, -_OUTLIER, _OUTLIER, out=values)
    return _put(frame, columns, values)


def _fill(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    filled: pd.DataFrame = frame.fillna(processor.options.fill_value)
    return filled


def _drop_incomplete_rows(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    if processor.options.fields_group is None:
        # It would drop rows by their label, which a new day does not have.
        raise BundleError(
            "processor-unknown",
            "The model's rows go through DropnaProcessor for all columns: it leaves stocks out by their future label.",
            "Give it fields_group: feature in the template, and train again.",
        )
    complete: pd.DataFrame = frame.dropna()
    return complete


def _standardize_by_day(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    by_day = frame.groupby("datetime", group_keys=False)[list(frame.columns)]
    scores: pd.DataFrame = by_day.apply(_DAY_SCORES[processor.options.method])
    return scores


def _rank_by_day(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    ranks: pd.DataFrame = frame.groupby("datetime", group_keys=False).rank(pct=True)
    ranks -= 0.5
    ranks *= 3.46
    return ranks


def _fill_by_day(frame: pd.DataFrame, processor: Processor) -> pd.DataFrame:
    by_day = frame.groupby("datetime", group_keys=False)[list(frame.columns)]
    filled: pd.DataFrame = by_day.apply(lambda day: day.fillna(day.mean()))
    return filled


def _day_score(day: pd.DataFrame) -> pd.DataFrame:
    scores: pd.DataFrame = (day - day.mean()).div(day.std())
    return scores


def _robust_day_score(day: pd.DataFrame) -> pd.DataFrame:
    centred = day - day.median()
    scores: pd.DataFrame = (centred / centred.abs().median() / _MAD_TO_STD).clip(-_OUTLIER, _OUTLIER)
    return scores


def _fitted(frame: pd.DataFrame, processor: Processor) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Columns, what is subtracted and what is divided by, both in the columns' common type."""
    if processor.columns is None or processor.mean is None or processor.std is None:
        message = f"{processor.name} in model_meta.json lacks its fitted numbers."
        raise BundleError("bundle-damaged", message, "Export the run again.")
    columns = list(processor.columns)
    missing = sorted(set(columns) - set(frame.columns))
    if missing:
        message = f"{processor.name} was fitted on {', '.join(missing)}, which the input lacks."
        raise BundleError("model-input-mismatch", message, "Export the run again.")
    # Medians and means of whole numbers are float64, as are those of no column at all.
    kinds: list[Any] = [frame[column].dtype for column in columns]
    common = np.result_type(np.float32, *kinds)
    return columns, _numbers(processor.mean, common), _numbers(processor.std, common)


def _numbers(values: Sequence[float | None], dtype: np.dtype[Any]) -> np.ndarray:
    # JSON has no NaN, which is what Qlib fits on a column without any value.
    return np.array([np.nan if value is None else value for value in values], dtype=dtype)


def _put(frame: pd.DataFrame, columns: list[str], values: np.ndarray) -> pd.DataFrame:
    changed: pd.DataFrame
    if columns == list(frame.columns):
        changed = pd.DataFrame(values, index=frame.index, columns=frame.columns)
    else:
        changed = frame.assign(**{column: values[:, place] for place, column in enumerate(columns)})
    return changed


_DAY_SCORES: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "zscore": _day_score,
    "robust": _robust_day_score,
}

_RULES: Mapping[str, Callable[[pd.DataFrame, Processor], pd.DataFrame]] = {
    "RobustZScoreNorm": _standardize_robustly,
    "ZScoreNorm": _standardize,
    "MinMaxNorm": _standardize,
    "Fillna": _fill,
    "DropnaProcessor": _drop_incomplete_rows,
    "CSZScoreNorm": _standardize_by_day,
    "CSRankNorm": _rank_by_day,
    "CSZFillna": _fill_by_day,
}

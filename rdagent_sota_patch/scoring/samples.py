"""Rows, or windows of days, as a scorer takes them, and what every scorer asks of machine and samples."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def require_live(*modules: str) -> None:
    """See that what a model needs is installed; imports nothing.

    Raises:
        BundleError: ``live-extra-missing``.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise BundleError(
            "live-extra-missing",
            f"Scoring with this bundle needs {' and '.join(missing)}, which is not installed.",
            "pip install 'rdagent-sota-patch[live]'",
        )


def require_features(where: Path, samples: np.ndarray, features: int) -> None:
    """See that samples have as many features as a model takes.

    Raises:
        BundleError: ``model-input-mismatch``.
    """
    if samples.shape[-1] != features:
        raise BundleError(
            "model-input-mismatch",
            f"The model of {where} takes {features} features, and is given {samples.shape[-1]}.",
            "These weights belong to another model, or the features to another bundle: export the run again.",
        )


def select_rows(processed: pd.DataFrame, days: Sequence[pd.Timestamp]) -> tuple[np.ndarray, pd.MultiIndex]:
    """The rows of some days.

    Args:
        processed: Index (datetime, instrument), a column per feature.
        days: The days to score.

    Returns:
        Shape (n, features), and the rows' index.
    """
    chosen = processed[_on_days(processed.index, days)]
    return chosen.to_numpy(), _two_levels(chosen.index)


def select_windows(
    processed: pd.DataFrame, days: Sequence[pd.Timestamp], step_len: int
) -> tuple[np.ndarray, pd.MultiIndex]:
    """For every row of some days, the window of days that ends with it.

    Args:
        processed: Index (datetime, instrument), a column per feature; with the ``step_len - 1`` trading days before
            each day of ``days``.
        days: The days to score.
        step_len: Days per window.

    Returns:
        Shape (n, step_len, features), and the index of the windows' last rows.

    Raises:
        BundleError: ``no-history`` when a day has fewer than ``step_len - 1`` earlier days.
    """
    calendar = processed.index.levels[0][np.unique(processed.index.codes[0])]  # type: ignore[attr-defined]
    day_of_row = calendar.get_indexer(processed.index.get_level_values(0))
    stock_of_row, stocks = pd.factorize(processed.index.get_level_values(1))
    chosen = np.flatnonzero(_on_days(processed.index, days))
    _require_history(calendar, day_of_row[chosen], step_len)
    # Which row a stock has on a day; -1 for none.
    grid = np.full((len(calendar), len(stocks)), -1, dtype=np.int64)
    grid[day_of_row, stock_of_row] = np.arange(len(processed))
    steps = np.arange(-step_len + 1, 1)
    rows = grid[day_of_row[chosen, None] + steps, stock_of_row[chosen, None]]
    filled = _fill_backward(_fill_forward(rows))
    return processed.to_numpy()[filled], _two_levels(processed.index[chosen])


def _on_days(index: pd.Index[Any], days: Sequence[pd.Timestamp]) -> np.ndarray:
    return np.asarray(index.get_level_values(0).isin(pd.DatetimeIndex(list(days))))


def _require_history(calendar: pd.DatetimeIndex, chosen: np.ndarray, step_len: int) -> None:
    short = sorted({calendar[day] for day in np.unique(chosen) if day < step_len - 1})
    if short:
        raise BundleError(
            "no-history",
            f"The model looks at {step_len} days, and the data before {short[-1]:%Y-%m-%d} has fewer.",
            "Give market data that starts earlier, or choose a later day.",
        )


def _fill_forward(rows: np.ndarray) -> np.ndarray:
    """Give each missing place (-1) of a window the nearest row before it in the window."""
    places = np.where(rows >= 0, np.arange(rows.shape[1]), -1)
    nearest = np.maximum.accumulate(places, axis=1)
    return np.where(nearest >= 0, np.take_along_axis(rows, np.maximum(nearest, 0), axis=1), -1)


def _fill_backward(rows: np.ndarray) -> np.ndarray:
    return _fill_forward(rows[:, ::-1])[:, ::-1]


def _two_levels(index: pd.Index[Any]) -> pd.MultiIndex:
    if not isinstance(index, pd.MultiIndex):
        raise TypeError("the index must have the levels datetime and instrument")
    return index

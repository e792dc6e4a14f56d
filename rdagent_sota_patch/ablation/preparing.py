"""A window's rows as Qlib's own processors make them, fitted on its training days alone."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.ablation.arrays import DAYS, FEATURES, LABEL, STOCKS, load_array, save_array
from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.arrays import Arrays
    from rdagent_sota_patch.ablation.recipe import Recipe, Step
    from rdagent_sota_patch.ablation.walk import Window

_PARTS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Rows of one segment; arrays are mapped.

    Attributes:
        x: Float32, shape (features, rows).
        y: The label: of training and validation as it is learned, of the test as it is; shape (rows,).
        days: Position of each row's day, ascending, shape (rows,).
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    days: NDArray[np.int32]


def prepare_window(arrays: Arrays, window: Window, recipe: Recipe, folder: Path) -> None:
    """Write a window's three segments to ``folder``, which is made.

    Raises:
        SotaError: ``cannot-write``; ``no-labels`` where the processors leave no row to learn from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frame = _take(arrays, window.train[0], window.test[1])
    fitted_on = (arrays.days[window.train[0]], arrays.days[window.train[1] - 1])
    inferred = _apply(frame, recipe.infer, fitted_on)
    learned = _apply(_between(inferred, arrays, (window.train[0], window.valid[1])), recipe.learn, fitted_on)
    raw = frame[("label", "LABEL0")]
    for part in _PARTS:
        rows = _between(inferred if part == "test" else learned, arrays, getattr(window, part))
        if not len(rows):
            first, last = (
                f"{arrays.days[place]:%Y-%m-%d}" for place in (window.train[0], window.valid[1] - 1)
            )
            raise SotaError(
                "no-labels",
                f"Of the days {first}…{last}, the processors leave no row to learn from ({part}).",
                "Check Qlib's data for these days and this market (--qlib-dir), or take fewer --windows.",
            )
        label = raw.loc[rows.index] if part == "test" else rows[("label", "LABEL0")]
        days = arrays.days.get_indexer(rows.index.get_level_values("datetime"))
        save_array(folder / f"{part}-x.npy", rows["feature"].to_numpy(np.float32).T)
        save_array(folder / f"{part}-y.npy", label.to_numpy(np.float32))
        save_array(folder / f"{part}-days.npy", days.astype(np.int32))


def load_segment(folder: Path, part: str) -> Segment:
    """A segment that `prepare_window` wrote: ``train``, ``valid`` or ``test``."""
    return Segment(*(load_array(folder / f"{part}-{name}.npy") for name in ("x", "y", "days")))


def _take(arrays: Arrays, start: int, stop: int) -> pd.DataFrame:
    """The raw rows of some days, as Qlib's handlers hold them."""
    days = arrays.load(DAYS)
    first, last = np.searchsorted(days, [start, stop])
    index = pd.MultiIndex.from_arrays(
        [arrays.days[days[first:last]], arrays.load(STOCKS)[first:last]], names=["datetime", "instrument"]
    )
    columns = pd.MultiIndex.from_tuples([*(("feature", name) for name in arrays.names), ("label", "LABEL0")])
    values = np.vstack([arrays.load(FEATURES)[:, first:last], arrays.load(LABEL)[None, first:last]])
    frame: pd.DataFrame = pd.DataFrame(values.T, index=index, columns=columns)
    return frame


def _between(frame: pd.DataFrame, arrays: Arrays, span: tuple[int, int]) -> pd.DataFrame:
    days = frame.index.get_level_values("datetime")
    first, last = (
        days.searchsorted(arrays.days[span[0]]),
        days.searchsorted(arrays.days[span[1] - 1], side="right"),
    )
    rows: pd.DataFrame = frame.iloc[int(first) : int(last)]
    return rows


def _apply(frame: pd.DataFrame, steps: Sequence[Step], fitted_on: tuple[Any, Any]) -> pd.DataFrame:
    """Qlib's processors, as its ``DataHandlerLP`` fits and calls them one after the other."""
    from qlib.data.dataset import processor as processors

    frame = frame.copy()
    with warnings.catch_warnings():
        # Of a feature that has no value yet on the training days.
        warnings.simplefilter("ignore", RuntimeWarning)
        for step in steps:
            kind = getattr(processors, step.name)
            kwargs = dict(step.kwargs)
            if "fit_start_time" in inspect.signature(kind).parameters:
                kwargs.update(fit_start_time=fitted_on[0], fit_end_time=fitted_on[1])
            made = kind(**kwargs)
            made.fit(frame)
            frame = made(frame)
    return frame

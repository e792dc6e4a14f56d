"""The features of all trials: computed once, as one array on the disk that every worker maps into its memory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FEATURES, LABEL, DAYS, STOCKS = "features.npy", "label.npy", "days.npy", "stocks.npy"


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """Raw features and label of every stock and day, in the order of (datetime, instrument).

    Attributes:
        folder: Holds ``features.npy``, float32, shape (features, rows); ``label.npy``, float32, and ``days.npy`` and
            ``stocks.npy``, int32 positions, shape (rows,).
        names: The features, as the first axis has them.
        days: All days, ascending.
        digest: SHA-256 of all of it.
    """

    folder: Path
    names: tuple[str, ...]
    days: pd.DatetimeIndex
    digest: str

    def load(self, name: str) -> NDArray[Any]:
        """One of the arrays, mapped and not read."""
        return load_array(self.folder / name)


def write_arrays(folder: Path, features: pd.DataFrame, label: pd.Series) -> Arrays:
    """Write features and label.

    Args:
        folder: Must exist.
        features: Index (datetime, instrument), a column per feature.
        label: Index likewise; rows that ``features`` lacks are left out, and those that it lacks are NaN.

    Raises:
        SotaError: ``cannot-write``; ``nothing-to-ablate`` where there is nothing to train on.
    """
    features = features.sort_index()
    if not len(features) or not len(features.columns):
        raise SotaError(
            "nothing-to-ablate",
            f"There are {len(features):,} rows of {len(features.columns)} features: nothing to train on.",
            "Check that the market data has the days and stocks of the factor table.",
        )
    days, day = np.unique(features.index.get_level_values("datetime").to_numpy(), return_inverse=True)
    stocks = pd.factorize(features.index.get_level_values("instrument"))[0]
    names = tuple(map(str, features.columns))
    digest = hashlib.sha256(repr((names, days.astype("datetime64[D]").astype(int).tolist())).encode())
    parts = {
        FEATURES: np.stack([features[name].to_numpy(np.float32) for name in features.columns]),
        LABEL: label.reindex(features.index).to_numpy(np.float32),
        DAYS: day.astype(np.int32),
        STOCKS: stocks.astype(np.int32),
    }
    for name, values in parts.items():
        digest.update(np.ascontiguousarray(values).data)
        save_array(folder / name, values)
    return Arrays(folder, names, pd.DatetimeIndex(days), digest.hexdigest())


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array as ``.npy``, whole or not at all; the work folder need not outlive a power cut.

    Raises:
        SotaError: ``cannot-write``.
    """
    with replace_atomically(path, durable=False) as temporary, temporary.open("wb") as file:
        # By this program's own writes: a mapped file on a full disk ends the process.
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def load_array(path: Path) -> NDArray[Any]:
    """An array that `save_array` wrote, mapped and not read."""
    values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return values

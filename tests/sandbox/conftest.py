"""A small market, and the walls that a test needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.probe import what_confines

needs_walls = pytest.mark.skipif(
    not (what_confines().files and what_confines().network), reason="this system cannot confine"
)
"""For what only the kernel can keep in; that its lack is said is tested elsewhere."""


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail() as jail:
        yield jail


@pytest.fixture(scope="session")
def daily_pv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty days of five stocks, in no order, float32 and float64."""
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2024-01-01", periods=20), [f"SH60000{i}" for i in range(5)]],
        names=["datetime", "instrument"],
    )
    numbers = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "$close": numbers.normal(10, 1, len(index)),
            "$volume": numbers.normal(1e6, 1, len(index)).astype(np.float32),
        },
        index=index,
    ).sample(frac=1, random_state=1)
    frame.iloc[3, 0] = np.nan
    path = tmp_path_factory.mktemp("market") / "daily_pv.h5"
    frame.to_hdf(path, key="data")
    return path

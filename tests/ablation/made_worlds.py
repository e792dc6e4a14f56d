"""Made-up worlds in which it is known which factors are real, which say the same twice, and which are noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_patch.ablation.arrays import Arrays, write_arrays
from rdagent_sota_patch.ablation.recipe import Boosting, Recipe, Step

REAL = tuple(f"real{number}" for number in range(5))
TWINS = tuple(f"twin{number}" for number in range(5))
NOISE = tuple(f"noise{number:02}" for number in range(20))

RECIPE = Recipe(
    Boosting(
        {
            "objective": "mse",
            "verbosity": -1,
            "num_leaves": 4,
            "learning_rate": 0.3,
            "max_bin": 15,
            "bin_construct_sample_cnt": 1000,
        },
        25,
        10,
    ),
    infer=(
        Step("RobustZScoreNorm", {"fields_group": "feature"}),
        Step("Fillna", {"fields_group": "feature"}),
    ),
    learn=(Step("DropnaLabel", {}), Step("CSRankNorm", {"fields_group": "label"})),
    horizon=2,
)
"""As RD-Agent's template has it, with a small model."""


def make_world(folder: Path, seed: int, *, days: int = 400, stocks: int = 40, ic: float = 0.15) -> Arrays:
    """A panel of independent factors and a label: five of them have the given IC, the others none.

    Each real factor has a twin: two near copies, one of them negated, and three monotone rewrites.
    """
    random = np.random.default_rng(seed)
    values = random.normal(size=(days * stocks, len(REAL) + len(NOISE)))
    real = values[:, : len(REAL)]
    label = ic * real.sum(axis=1) + np.sqrt(1 - len(REAL) * ic**2) * random.normal(size=days * stocks)
    twins = np.stack(
        [
            real[:, 0] + 0.01 * random.normal(size=len(real)),
            0.01 * random.normal(size=len(real)) - real[:, 1],
            np.exp(3 * real[:, 2]),
            -(real[:, 3] ** 3),
            np.tanh(real[:, 4]),
        ],
        axis=1,
    )
    frame = pd.DataFrame(
        np.hstack([values, twins]), columns=[*REAL, *NOISE, *TWINS], index=make_index(days, stocks)
    )
    return write_arrays(folder, frame[sorted(frame.columns)], pd.Series(0.02 * label, index=frame.index))


def make_index(days: int, stocks: int) -> pd.MultiIndex:
    """So many trading days of so many stocks."""
    return pd.MultiIndex.from_product(
        [pd.bdate_range("2018-01-01", periods=days), [f"SH{600000 + number}" for number in range(stocks)]],
        names=["datetime", "instrument"],
    )

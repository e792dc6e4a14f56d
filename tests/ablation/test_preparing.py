"""A window's rows: Qlib's processors, fitted on the training days alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_patch.ablation.arrays import Arrays, write_arrays
from rdagent_sota_patch.ablation.preparing import load_segment, prepare_window
from rdagent_sota_patch.ablation.recipe import Boosting, Recipe
from rdagent_sota_patch.ablation.walk import Window
from tests.ablation.made_worlds import RECIPE, make_index

WINDOW = Window((0, 20), (22, 30), (32, 40))


def make_arrays(folder: Path, shift: float = 0.0) -> tuple[Arrays, pd.DataFrame]:
    """Two features, of which one has gaps; ``shift`` moves the days after the training."""
    index = make_index(40, 8)
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {"a": random.normal(2, 3, len(index)), "b": random.normal(size=len(index))}, index=index
    )
    frame.iloc[::7, 1] = np.nan
    frame.iloc[20 * 8 :, 0] += shift
    label = pd.Series(random.normal(size=len(index)), index=index)
    label.iloc[[3, 35 * 8]] = np.nan
    return write_arrays(folder, frame, label), frame.assign(label=label).astype(np.float32)


def test_the_templates_processors(tmp_path: Path) -> None:
    """Median and spread of the training days; ranks of labels where they are learned, raw labels where they test."""
    arrays, frame = make_arrays(tmp_path)
    prepare_window(arrays, WINDOW, RECIPE, tmp_path / "window")
    train, test = load_segment(tmp_path / "window", "train"), load_segment(tmp_path / "window", "test")
    fitted = frame["a"].to_numpy()[: 20 * 8]
    middle = np.median(fitted)
    spread = (np.median(np.abs(fitted - middle)) + 1e-12) * 1.4826
    raw = frame["a"].to_numpy()[32 * 8 : 40 * 8]
    np.testing.assert_allclose(test.x[0], np.clip((raw - middle) / spread, -3, 3), rtol=1e-5)
    assert not np.isnan(test.x).any()
    np.testing.assert_array_equal(test.y, frame["label"].to_numpy()[32 * 8 : 40 * 8])
    assert np.isnan(test.y[24])
    # The row without a label is not learned from.
    assert train.x.shape == (2, 20 * 8 - 1)
    first = frame["label"].iloc[:8].rank(pct=True).dropna()
    np.testing.assert_allclose(train.y[:7], (first - 0.5) * 3.46, rtol=1e-5)
    assert set(test.days) == set(range(32, 40))


def test_what_comes_after_the_training_does_not_change_it(tmp_path: Path) -> None:
    """Other values on later days, and the training rows are the same to the last bit."""
    prepared = []
    for name, shift in (("here", 0.0), ("there", 50.0)):
        (tmp_path / name).mkdir()
        arrays, _ = make_arrays(tmp_path / name, shift)
        prepare_window(arrays, WINDOW, RECIPE, tmp_path / name / "window")
        prepared.append(load_segment(tmp_path / name / "window", "train"))
    np.testing.assert_array_equal(prepared[0].x, prepared[1].x)
    np.testing.assert_array_equal(prepared[0].y, prepared[1].y)


def test_without_processors_rows_are_as_they_are(tmp_path: Path) -> None:
    arrays, frame = make_arrays(tmp_path)
    prepare_window(arrays, WINDOW, Recipe(Boosting({})), tmp_path / "window")
    valid = load_segment(tmp_path / "window", "valid")
    np.testing.assert_array_equal(valid.x[1], frame["b"].to_numpy()[22 * 8 : 30 * 8])

"""Samples, against Qlib's own ``TSDataSampler``: windows with missing rows, missing days and new stocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.samples import select_rows, select_windows

STEP_LEN = 5


def make_frame(seed: int, missing: float) -> pd.DataFrame:
    """20 days of 15 stocks in random order, a share of the rows missing, one stock listed late."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", periods=20), [f"S{number:02d}" for number in range(15)]],
        names=["datetime", "instrument"],
    )
    frame = pd.DataFrame(rng.normal(size=(len(index), 3)), index=index, columns=["A", "B", "C"])
    frame = frame[rng.random(len(frame)) >= missing]
    late = (frame.index.get_level_values(1) == "S03") & (frame.index.get_level_values(0) < "2020-01-22")
    return frame[~late]


@pytest.mark.parametrize("missing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_windows_are_qlibs(seed: int, missing: float) -> None:
    """Each sample is Qlib's window of the same stock and day."""
    from qlib.data.dataset import TSDataSampler

    frame = make_frame(seed, missing)
    days = frame.index.get_level_values(0).unique().sort_values()[-8:]
    sampler = TSDataSampler(frame.copy(), days[0], days[-1], STEP_LEN, fillna_type="ffill+bfill")
    expected = dict(zip(sampler.get_index(), (sampler[i] for i in range(len(sampler))), strict=True))
    shuffled = frame.sample(frac=1, random_state=seed)
    samples, index = select_windows(shuffled, list(days), STEP_LEN)
    assert samples.shape == (len(index), STEP_LEN, 3)
    assert set(index) == set(expected)
    for place, key in enumerate(index):
        assert np.array_equal(samples[place], expected[key]), key


def test_a_type_stays_what_it_is() -> None:
    """Nothing is widened on the way."""
    frame = make_frame(0, 0.1).astype("f4")
    days = list(frame.index.get_level_values(0).unique()[-2:])
    assert select_windows(frame, days, STEP_LEN)[0].dtype == np.float32
    assert select_rows(frame, days)[0].dtype == np.float32


def test_too_little_history_is_an_error() -> None:
    """Qlib would fill a window up with later days, and a score would be another in silence."""
    frame = make_frame(0, 0.0)
    days = frame.index.get_level_values(0).unique()
    select_windows(frame, [days[STEP_LEN - 1]], STEP_LEN)
    with pytest.raises(BundleError) as caught:
        select_windows(frame, [days[STEP_LEN - 2]], STEP_LEN)
    assert caught.value.slug == "no-history"


def test_rows_of_some_days() -> None:
    """A tabular sample is its row; rows of other days are left out, and a day without rows has none."""
    frame = make_frame(0, 0.3)
    days = frame.index.get_level_values(0).unique()
    samples, index = select_rows(frame, [days[3], days[5], pd.Timestamp("2030-01-01")])
    expected = frame[frame.index.get_level_values(0).isin([days[3], days[5]])]
    assert np.array_equal(samples, expected.to_numpy())
    assert index.equals(expected.index)

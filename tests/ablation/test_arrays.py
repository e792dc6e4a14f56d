"""Features on the disk."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.ablation.arrays import FEATURES, LABEL, save_array, write_arrays
from rdagent_sota_patch.errors import SotaError
from tests.ablation.made_worlds import make_index


def make_frame(days: int = 3, stocks: int = 2) -> pd.DataFrame:
    index = make_index(days, stocks)
    return pd.DataFrame({"b": np.arange(len(index), dtype=float), "a": 1.0}, index=index)


def test_what_is_written_is_sorted_float32(tmp_path: Path) -> None:
    """Rows by day and stock, columns as given, and a row without a label has none."""
    frame = make_frame()
    arrays = write_arrays(tmp_path, frame.iloc[::-1], frame["b"].iloc[1:])
    assert arrays.names == ("b", "a")
    features = arrays.load(FEATURES)
    assert features.dtype == np.float32
    assert features[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert np.isnan(arrays.load(LABEL)[0])
    assert isinstance(features, np.memmap)


def test_the_hash_is_of_all_that_is_written(tmp_path: Path) -> None:
    """One value, one name or one day more, and it is another table."""
    frame = make_frame()
    first = write_arrays(tmp_path, frame, frame["b"]).digest
    assert write_arrays(tmp_path, frame, frame["b"]).digest == first
    changed = frame.copy()
    changed.iloc[2, 0] += 1e-3
    others = [
        write_arrays(tmp_path, changed, frame["b"]).digest,
        write_arrays(tmp_path, frame, changed["b"]).digest,
        write_arrays(tmp_path, frame.rename(columns={"b": "c"}), frame["b"]).digest,
    ]
    assert len({first, *others}) == 4


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(SotaError) as error:
        write_arrays(tmp_path, make_frame().iloc[:0], pd.Series(dtype=float))
    assert error.value.slug == "nothing-to-ablate"


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on a file's size stands in for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(SotaError) as error:
            save_array(tmp_path / "x.npy", np.zeros(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.slug == "cannot-write"
    assert list(tmp_path.iterdir()) == []

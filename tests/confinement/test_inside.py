"""What runs inside the jail, run here: which results and market data it takes for none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.confinement import inside
from rdagent_sota_patch.confinement.frames import Unreadable, read_frame

INDEX = pd.MultiIndex.from_product(
    [pd.bdate_range("2024", periods=2), ["a", "b"]], names=["datetime", "instrument"]
)
FACTOR = pd.DataFrame({"f": np.arange(4.0)}, index=INDEX)

Leave = Callable[[Path], object]

UNFIT: dict[str, Leave] = {
    "it was not written": lambda path: None,
    "it is a link": lambda path: path.symlink_to("elsewhere.h5"),
    "it has 2 columns, not one": lambda path: FACTOR.assign(more=1).to_hdf(path, key="data"),
    r"its index is \['datetime'\], not datetime and instrument": lambda path: FACTOR.droplevel(
        "instrument"
    ).to_hdf(path, key="data"),
    r"its index is \['instrument', 'datetime'\], not datetime and instrument": lambda path: (
        FACTOR.swaplevel().to_hdf(path, key="data")
    ),
    "column 'f' holds object, not numbers": lambda path: FACTOR.astype(str).to_hdf(path, key="data"),
    "its datetime level is int64, not plain dates": lambda path: FACTOR.set_axis(
        INDEX.set_levels([1, 2], level=0)
    ).to_hdf(path, key="data"),
    "it cannot be read: HDF5ExtError: Unable to open": lambda path: path.write_text("no HDF5"),
}


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
@pytest.mark.parametrize("fault", UNFIT)
def test_a_result_that_is_no_factor_is_told_by_its_fault(tmp_path: Path, fault: str) -> None:
    """Everything that RD-Agent's table could not be made of."""
    UNFIT[fault](tmp_path / "result.h5")
    inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values"))
    with pytest.raises(Unreadable, match=f"^{fault}"):
        read_frame(tmp_path / "values")


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "bool"])
def test_numbers_of_every_kind_keep_it(tmp_path: Path, dtype: str) -> None:
    """Also with rows in no order, and a day and a stock twice."""
    frame = pd.concat([FACTOR.iloc[::-1], FACTOR]).astype(dtype)
    frame.to_hdf(tmp_path / "result.h5", key="data")
    inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values"))
    pd.testing.assert_frame_equal(read_frame(tmp_path / "values"), frame, check_exact=True)


def test_no_rows_are_a_result(tmp_path: Path) -> None:
    """What that means is for others to say."""
    FACTOR.iloc[:0].to_hdf(tmp_path / "result.h5", key="data")
    inside.convert_result(str(tmp_path / "result.h5"), str(tmp_path / "values"))
    frame = read_frame(tmp_path / "values")
    assert frame.empty and list(frame.columns) == ["f"]

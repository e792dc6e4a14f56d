"""What an export costs: the order of the inputs against reading a footer, and copying against ``cp``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.processes import run_child

MODULE = "shipping"
_FACTORS = 20
_LARGE, _SMALL = 2_700_000, 27_000
"""Rows; of random numbers, which do not compress, the large table has 450 MB."""
_WEIGHTS_MB = 500
_ROUNDS = 5
_REPEATS = 50


def measure(folder: Path) -> list[Comparison]:
    """Measure on files that are made for it in ``folder``, which needs 2 GB."""
    place = folder / "shipping"
    place.mkdir()
    run_child(MODULE, ["make", place], place)
    ours, footer, small = [], [], []
    copied, cp = [], []
    for _ in range(_ROUNDS):
        ours.append(run_child(MODULE, ["names", place / "large.parquet"], place))
        footer.append(run_child(MODULE, ["footer", place / "large.parquet"], place))
        small.append(run_child(MODULE, ["names", place / "small.parquet"], place))
        copied.append(run_child(MODULE, ["copy", place], place))
        cp.append(run_child(MODULE, ["cp", place], place))
    size = (place / "large.parquet").stat().st_size // 1_000_000
    twice = Limit(Bound.RATIO, 2)
    return [
        compare(f"factor order of a {size} MB table / reading its footer", "ms", ours, footer, twice),
        compare("the same / of a table with a hundredth of the rows", "ms", ours, small, twice),
        compare(f"export's copy of {_WEIGHTS_MB} MB, hashed / cp", "s", copied, cp, Limit(Bound.RATIO, 1.5)),
    ]


def _make(place: Path) -> None:
    import numpy as np
    import pandas as pd

    names = pd.MultiIndex.from_product([["feature"], [f"Mined{number:02}" for number in range(_FACTORS)]])
    for name, rows in (("large", _LARGE), ("small", _SMALL)):
        days = pd.date_range("2010-01-01", periods=rows // 900, freq="B")
        stocks = [f"SH{number:06}" for number in range(600000, 600900)]
        index = pd.MultiIndex.from_product([days, stocks], names=["datetime", "instrument"])
        values = np.random.default_rng(0).standard_normal((len(index), _FACTORS))
        path = place / f"{name}.parquet"
        pd.DataFrame(values, index=index, columns=names).to_parquet(path, engine="pyarrow")
        path.read_bytes()
    (place / "params.pkl").write_bytes(os.urandom(_WEIGHTS_MB * 1_000_000))
    # The first writes of a run would pay for the disk's waiting for these.
    os.sync()
    print(json.dumps(True))


def _names(path: Path) -> None:
    from rdagent_sota_patch.factors.schema import read_names

    assert len(read_names(path)) == _FACTORS
    start = time.perf_counter()
    for _ in range(_REPEATS):
        read_names(path)
    print(json.dumps((time.perf_counter() - start) / _REPEATS * 1000))


def _footer(path: Path) -> None:
    import pyarrow.parquet as pq

    pq.read_metadata(path)
    start = time.perf_counter()
    for _ in range(_REPEATS):
        pq.read_metadata(path)
    print(json.dumps((time.perf_counter() - start) / _REPEATS * 1000))


def _copy(place: Path) -> None:
    from rdagent_sota_patch.bundle.writing import BundleWriter

    writer = BundleWriter(place / "bundle")
    start = time.perf_counter()
    writer.copy("model.pkl", place / "params.pkl")
    took = time.perf_counter() - start
    (place / "bundle" / "model.pkl").unlink()
    print(json.dumps(took))


def _cp(place: Path) -> None:
    start = time.perf_counter()
    subprocess.run(["cp", str(place / "params.pkl"), str(place / "copied.pkl")], check=True)
    took = time.perf_counter() - start
    (place / "copied.pkl").unlink()
    print(json.dumps(took))


if __name__ == "__main__":
    {"make": _make, "names": _names, "footer": _footer, "copy": _copy, "cp": _cp}[sys.argv[1]](
        Path(sys.argv[2])
    )

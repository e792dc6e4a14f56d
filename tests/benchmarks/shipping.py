"""What an export costs: the order of the inputs against reading a footer, and copying against ``cp``."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.processes import run_child

MODULE = "shipping"
_FACTORS = 20
_LARGE, _SMALL = 2_700_000, 27_000
"""Rows; of random numbers, which do not compress, the large table has 450 MB."""
_WEIGHTS_MB = 500
_ROUNDS = 5
_REPEATS = 500


def measure(folder: Path) -> list[Comparison]:
    """Measure on files that are made for it in ``folder``, which needs 2 GB."""
    place = folder / "shipping"
    place.mkdir()
    run_child(MODULE, ["make", place], place)
    ours, footer, small = [], [], []
    hashed, copied, cp, synced, cp_synced = [], [], [], [], []
    for _ in range(_ROUNDS):
        ours.append(run_child(MODULE, ["names", place / "large.parquet"], place))
        footer.append(run_child(MODULE, ["footer", place / "large.parquet"], place))
        small.append(run_child(MODULE, ["names", place / "small.parquet"], place))
        hashed.append(run_child(MODULE, ["hash", place], place))
        copied.append(run_child(MODULE, ["copy", place], place))
        cp.append(run_child(MODULE, ["cp", place], place))
        synced.append(run_child(MODULE, ["copy_and_sync", place], place))
        cp_synced.append(run_child(MODULE, ["cp_and_sync", place], place))
    size = (place / "large.parquet").stat().st_size // 1_000_000
    twice = Limit(Bound.RATIO, 2)
    return [
        compare(f"factor order of a {size} MB table / reading its footer", "ms", ours, footer, twice),
        compare("the same / of a table with a hundredth of the rows", "ms", ours, small, twice),
        compare(
            f"export's copy of {_WEIGHTS_MB} MB to the disk, hashed / cp and sync",
            "s",
            synced,
            cp_synced,
            Limit(Bound.RATIO, 1.5),
        ),
        compare("the same / cp, which does not wait for the disk", "s", copied, cp),
        compare("SHA-256 of as much alone / cp, which does not wait", "s", hashed, cp),
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
    from rdagent_sota_patch.factor_table.schema import read_names

    assert len(read_names(path)) == _FACTORS
    start = time.perf_counter()
    for _ in range(_REPEATS):
        read_names(path)
    print(json.dumps((time.perf_counter() - start) / _REPEATS * 1000))


def _footer(path: Path) -> None:
    import pyarrow.parquet as pq

    pq.read_schema(path)
    start = time.perf_counter()
    for _ in range(_REPEATS):
        pq.read_schema(path)
    print(json.dumps((time.perf_counter() - start) / _REPEATS * 1000))


def _hash(place: Path) -> None:
    data = (place / "params.pkl").read_bytes()
    start = time.perf_counter()
    hashlib.sha256(data)
    print(json.dumps(time.perf_counter() - start))


def _copy(place: Path, *, sync: bool = False) -> None:
    from rdagent_sota_patch.atomic import sync_file
    from rdagent_sota_patch.bundle.writing import BundleWriter

    writer = BundleWriter(place / "bundle")
    start = time.perf_counter()
    writer.copy("model.pkl", place / "params.pkl")
    if sync:
        sync_file(place / "bundle" / "model.pkl")
    took = time.perf_counter() - start
    (place / "bundle" / "model.pkl").unlink()
    print(json.dumps(took))


def _cp(place: Path, *, sync: bool = False) -> None:
    copied = str(place / "copied.pkl")
    start = time.perf_counter()
    subprocess.run(["cp", str(place / "params.pkl"), copied], check=True)
    if sync:
        subprocess.run(["sync", copied], check=True)
    took = time.perf_counter() - start
    Path(copied).unlink()
    print(json.dumps(took))


_PARTS = {
    "make": _make,
    "names": _names,
    "footer": _footer,
    "hash": _hash,
    "copy": _copy,
    "cp": _cp,
    "copy_and_sync": partial(_copy, sync=True),
    "cp_and_sync": partial(_cp, sync=True),
}

if __name__ == "__main__":
    _PARTS[sys.argv[1]](Path(sys.argv[2]))

"""The factor table that the model loop is measured with: 2,000,000 rows x 20 factors, as RD-Agent writes one."""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path

from tests.benchmarks.comparison import Comparison, compare
from tests.benchmarks.memory import begin_peak, peak
from tests.benchmarks.processes import run_child

MODULE = "factor_table"
TABLE_NAME = "combined_factors_df.parquet"
PREPARED_NAME = "prepared.pickle"
_DAYS, _STOCKS, _FACTORS = 2500, 800, 20
_ROUNDS = 3


def make_table(folder: Path) -> Path:
    """Write the table, in a process of its own, and read it once so that it is in the cache."""
    run_child(MODULE, ["make", folder], folder)
    return folder / TABLE_NAME


def measure_preparation(folder: Path) -> list[Comparison]:
    """Measure what is done once in a run, before its first loop; leaves ``PREPARED_NAME`` for the loops."""
    ours, reference = [], []
    for _ in range(_ROUNDS):
        ours.append(run_child(MODULE, ["prepare", folder], folder))
        reference.append(run_child(MODULE, ["read", folder], folder))
    name = "once in a run: check and fingerprint 2,000,000 x 20 / pyarrow's read_table"
    return [
        compare(name, "s", [seconds for seconds, _ in ours], [seconds for seconds, _ in reference]),
        compare(f"{name}, peak memory", "MB", [mb for _, mb in ours], [mb for _, mb in reference]),
    ]


def _make(folder: Path) -> None:
    import numpy as np
    import pandas as pd

    index = pd.MultiIndex.from_product(
        [
            pd.date_range("2010-01-01", periods=_DAYS, freq="B"),
            [f"SH{number:06}" for number in range(600000, 600000 + _STOCKS)],
        ],
        names=["datetime", "instrument"],
    )
    values = np.random.default_rng(0).standard_normal((len(index), _FACTORS))
    names = pd.MultiIndex.from_product([["feature"], [f"Mined{number:02}" for number in range(_FACTORS)]])
    path = folder / TABLE_NAME
    pd.DataFrame(values, index=index, columns=names).to_parquet(path, engine="pyarrow")
    path.read_bytes()
    print(json.dumps(len(index)))


def _prepare(folder: Path) -> None:
    from rdagent_sota_patch.factor_table.table import read_factor_table

    before, start = begin_peak(), time.perf_counter()
    table = read_factor_table(folder / TABLE_NAME)
    took = time.perf_counter() - start, peak() - before
    (folder / PREPARED_NAME).write_bytes(pickle.dumps(table))
    print(json.dumps(took))


def _read(folder: Path) -> None:
    import pyarrow.parquet as pq

    before, start = begin_peak(), time.perf_counter()
    table = pq.read_table(folder / TABLE_NAME)
    took = time.perf_counter() - start, peak() - before
    assert table.num_rows == _DAYS * _STOCKS
    print(json.dumps(took))


if __name__ == "__main__":
    {"make": _make, "prepare": _prepare, "read": _read}[sys.argv[1]](Path(sys.argv[2]))

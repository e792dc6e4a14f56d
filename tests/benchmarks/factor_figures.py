"""Figures of every factor of a table of 2,000,000 x 20: ``python -m tests.benchmarks.factor_figures``."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.results.factor_metrics import DATA_NAME, Inputs, measure_factors
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord
from tests.benchmarks.factor_table import make_table
from tests.benchmarks.memory import begin_peak, peak

_MORE_DAYS = 21
"""After the table's last day, for returns over twenty days."""


def main() -> None:
    """Make table and prices, compute, and print time and growth of peak memory."""
    with tempfile.TemporaryDirectory(prefix="figures-") as name:
        folder = Path(name)
        make_table(folder)
        index = pd.read_parquet(str(folder / TABLE_NAME), columns=[]).index
        days = index.get_level_values("datetime").unique()
        stocks = index.get_level_values("instrument").unique()
        _write_prices(
            folder / DATA_NAME, days.append(pd.bdate_range(days[-1], periods=_MORE_DAYS + 1)[1:]), stocks
        )
        experiment = ExperimentRecord(loop=0, kind=ExperimentKind.FACTOR)
        before, start, busy = begin_peak(), time.perf_counter(), _processor()
        found = measure_factors("run", Inputs(experiment, folder / TABLE_NAME, folder / DATA_NAME), "")
        took, busy, grown = time.perf_counter() - start, _processor() - busy, peak() - before
    assert all(item.rank_ic_20d is not None for item in found.metrics)
    cells = len(index) * len(found.metrics)
    print(
        f"{len(index):,} rows x {len(found.metrics)} factors: {took:.1f} s, {busy:.1f} s of the processor, "
        f"{1e9 * busy / cells:.0f} ns of it a value, "
        f"peak memory grows by {grown:,.0f} MB"
    )


def _processor() -> float:
    """Seconds of this process and of those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _write_prices(path: Path, days: pd.DatetimeIndex, stocks: pd.Index) -> None:
    steps = np.random.default_rng(1).normal(0, 0.02, (len(days), len(stocks)))
    close = (10 * np.exp(np.cumsum(steps, axis=0))).astype(np.float32)
    index = pd.MultiIndex.from_product([days, stocks], names=["datetime", "instrument"])
    pd.DataFrame({"$close": close.ravel()}, index=index).to_hdf(path, key="data", mode="w")


if __name__ == "__main__":
    main()

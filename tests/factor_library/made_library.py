"""A run and its table, for processes that add it to a library; imports no test framework, so that they start fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_patch.factor_library.shelving import Added, Findings, add_factors
from rdagent_sota_patch.factor_table.sources import Source, origins_of
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Factor, Session, Signature
from rdagent_sota_patch.settings import SourceKind

DAYS, STOCKS = 30, 12
VALUES = {name: np.random.default_rng(seed).standard_normal(DAYS * STOCKS) for seed, name in enumerate("ABC")}
NOTHING = Findings({}, "No figures: there is no market data.", {})


def write_table(path: Path, **columns: np.ndarray) -> None:
    """A factor table as RD-Agent writes it."""
    index = pd.MultiIndex.from_product(
        [
            pd.date_range("2020-01-01", periods=DAYS).astype("datetime64[ns]"),
            [f"SH{600000 + each}" for each in range(STOCKS)],
        ],
        names=["datetime", "instrument"],
    )
    frame = pd.DataFrame(columns, index=index)
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    frame.to_parquet(path)


def make_source(folder: Path, run: str = "first", code: str = "x = 1\n") -> tuple[Source, Path]:
    """A run that accepted A in loop 0 and B in loop 2, and its table."""
    first = ExperimentRecord(
        0, ExperimentKind.FACTOR, True, factors=(Factor("A", code=code),), workspace=Path("/ws/0")
    )
    second = ExperimentRecord(
        2,
        ExperimentKind.FACTOR,
        True,
        factors=(Factor("B", "Second", "b", {"b": "price"}, code="y = 2\n"),),
        workspace=Path("/ws/2"),
        based_on=(first,),
    )
    log = folder / "log" / run
    session = Session(log, log / "snapshot", Signature.VERIFIED, "FactorRDLoop", (first, second))
    table = folder / f"{run}.parquet"
    write_table(table, A=VALUES["A"], B=VALUES["B"])
    source = Source(SourceKind.LOG, log, table, session, second, origins=origins_of(second), task_id=run)
    return source, table


def add(folder: Path, findings: Findings = NOTHING, run: str = "first", code: str = "x = 1\n") -> list[Added]:
    """The run's factors into the library beside it."""
    source, table = make_source(folder, run, code)
    return add_factors(folder / "library", source, table, findings)

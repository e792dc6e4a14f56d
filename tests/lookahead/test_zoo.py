"""No honest factor accused, few peeks missed: the audit on many factor codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.lookahead import LEAST_CUTS, THOROUGH_CUTS
from rdagent_sota_patch.lookahead.auditing import AuditOptions, audit_factors
from rdagent_sota_patch.sandbox.limits import Limits
from tests.lookahead.factor_zoo import codes_of, write_folder
from tests.lookahead.zoo import HARD, HONEST, LOOK_AHEAD


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    write_folder(folder)
    return folder


def wrong_in(bodies: dict[str, str], folder: Path, cuts: int) -> tuple[dict[str, str], list[str]]:
    """The honest factors that are not found so, with the reason; and the names of the peeking ones that pass."""
    options = AuditOptions(cuts=cuts, limits=Limits(seconds=120, memory_mb=2048), jobs=2, lookback=False)
    verdicts = audit_factors(codes_of(bodies), folder, options).factors
    blamed = {one.name: one.reason for one in verdicts if one.name in HONEST and one.causal is not True}
    passed = [one.name for one in verdicts if one.name in LOOK_AHEAD and one.causal is not False]
    return blamed, passed


def test_the_zoo_is_large_enough() -> None:
    """Sixty of each kind at least, and none in both."""
    assert len(LOOK_AHEAD) >= 60
    assert len(HONEST) >= 60
    assert not LOOK_AHEAD.keys() & HONEST.keys()


def test_the_hard_ones(folder: Path) -> None:
    """Rare and subtle peeks, honest code that looks like one, and some of all others."""
    others = {**LOOK_AHEAD, **HONEST}
    sample = {name: others[name] for name in list(others)[::8]}
    blamed, passed = wrong_in({**sample, **HARD}, folder, LEAST_CUTS)
    assert blamed == {}
    assert passed == []


def test_between_the_cuts_of_a_small_market(tmp_path: Path) -> None:
    """One halt and one warm-up, which the cuts spread over the time do not meet."""
    days = pd.bdate_range("2019-01-02", periods=300, name="datetime")
    stocks = pd.Index([f"SZ{place:06d}" for place in range(1, 7)], name="instrument")
    steps = np.random.default_rng(1).normal(0, 0.02, (300, 6))
    close = pd.DataFrame(10 * np.exp(np.cumsum(steps, axis=0)), days, stocks)
    close.iloc[58:73, 0] = np.nan
    rows = close.stack(future_stack=True)
    pd.DataFrame({"$close": rows, "$volume": rows * 1e4}).astype("float32").to_hdf(
        tmp_path / "daily_pv.h5", key="data"
    )
    names = ("SuspensionInterpolated", "WarmUpBackfilled", "Momentum20")
    bodies = {name: {**LOOK_AHEAD, **HONEST}[name] for name in names}
    assert wrong_in(bodies, tmp_path / "daily_pv.h5", LEAST_CUTS) == ({}, [])


@pytest.mark.proof
def test_the_whole_zoo(folder: Path) -> None:
    """No honest factor is accused; of thirty that peek, one at most passes."""
    blamed, passed = wrong_in({**LOOK_AHEAD, **HONEST}, folder, LEAST_CUTS)
    assert blamed == {}
    assert len(passed) <= len(LOOK_AHEAD) // 30, passed


@pytest.mark.proof
def test_the_peeking_ones_thoroughly(folder: Path) -> None:
    """All are found with more cuts, and honest code that looks like it is still not accused."""
    blamed, passed = wrong_in({**LOOK_AHEAD, **HARD}, folder, THOROUGH_CUTS)
    assert blamed == {}
    assert passed == []

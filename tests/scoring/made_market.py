"""A market for bundles made by hand: Qlib's data and ``daily_pv.h5`` of the same prices."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_patch.demo.synthetic_market import (
    Market,
    MarketSpec,
    simulate_market,
    write_factor_data,
    write_qlib_data,
)
from rdagent_sota_patch.scoring.market_days import MarketFiles
from tests.bundle.made import FACTOR_DAYS, ORDER

SPEC = MarketSpec(seed=3, stocks=51, start=date(2020, 8, 3), end=date(2020, 10, 30))

UNKNOWN, NEW, GONE, SPLIT = "SH600040", "SH600041", "SH600042", "SH600043"
PATCHES = {
    UNKNOWN: "``daily_pv.h5`` does not know it",
    NEW: "there only for the last two days",
    GONE: "in Qlib's data no longer for the last five days",
    SPLIT: "half the price in Qlib's data",
}


@dataclass(frozen=True)
class MadeMarket:
    """A market on disk.

    Attributes:
        files: As a user names them.
        market: The same prices in memory.
    """

    files: MarketFiles
    market: Market


def make_market(folder: Path) -> MadeMarket:
    """Write a market of 51 stocks and some 70 days into ``folder``."""
    market = simulate_market(SPEC)
    write_qlib_data(market, folder / "qlib")
    write_factor_data(market, folder / "full", folder / "debug")
    return MadeMarket(MarketFiles(folder / "full" / "daily_pv.h5", folder / "qlib"), market)


def make_patchy_market(folder: Path) -> MadeMarket:
    """The same, with a stock each of those that `PATCHES` describes."""
    made = make_market(folder)
    assert made.files.data is not None
    frame = made.market.frame()
    stocks, days = frame.index.get_level_values("instrument"), frame.index.get_level_values("datetime")
    kept = (stocks != UNKNOWN) & ~((stocks == NEW) & (days < made.market.days[-2]))
    frame[kept].to_hdf(made.files.data, key="data", mode="w")
    closes = folder / "qlib" / "features"
    for path in (closes / GONE.lower()).iterdir():
        path.write_bytes(path.read_bytes()[: -4 * 5])
    split = closes / SPLIT.lower() / "close.day.bin"
    values = np.fromfile(split, "<f4")
    values[1:] /= 2
    values.tofile(split)
    return made


def expect_features(market: Market) -> pd.DataFrame:
    """The features of a made bundle on all days, computed here, without Qlib and without factor code."""
    frame = market.frame()
    wide = {name: frame[f"${name}"].unstack() for name in ("open", "close", "high", "low")}
    columns = {
        # As the factors' code has it: float32 divided, less one, as float64.
        name: (wide["close"] / wide["close"].shift(days) - 1).astype(np.float64)
        for name, days in FACTOR_DAYS.items()
    }
    columns["KLEN"] = (wide["high"] - wide["low"]) / wide["open"]
    columns["ROC5"] = wide["close"].shift(5) / wide["close"]
    raw: pd.DataFrame = pd.DataFrame(
        {name: columns[name].stack(future_stack=True) for name in ORDER}, index=frame.index
    )
    return raw

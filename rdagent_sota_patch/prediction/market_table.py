"""The user's data folder while a day is predicted: looked at and cut in a jail that is gone afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rdagent_sota_patch.confinement.jail import Jail
from rdagent_sota_patch.confinement.market import read_market
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from rdagent_sota_patch.confinement.market import MarketTable
    from rdagent_sota_patch.prediction.market_days import MarketFiles
    from rdagent_sota_patch.prediction.mined import MinedFactor

_CLOSE = "$close"


@contextmanager
def open_market(market: MarketFiles, factors: Sequence[MinedFactor]) -> Iterator[MarketTable | None]:
    """Look at the data folder; None where no factor needs it.

    Raises:
        BundleError: ``market-data-needed``, ``market-data-unreadable``.
    """
    if not factors:
        yield None
        return
    path = require_data(market, factors)
    with Jail() as jail:
        yield read_market(path, jail=jail)


def require_data(market: MarketFiles, factors: Sequence[MinedFactor]) -> Path:
    """The folder or file that the factors' code reads.

    Raises:
        BundleError: ``market-data-needed``.
    """
    if market.data is None:
        raise BundleError(
            "market-data-needed",
            f"The model takes {len(factors)} mined factors, whose code reads daily_pv.h5.",
            "Name it, or its folder, with --data.",
        )
    return market.data


def closes_on(table: MarketTable, one_day: Path) -> pd.Series:
    """Closing prices, index instrument.

    Args:
        table: Of the whole file.
        one_day: Its ``daily_pv.h5`` cut to a single day.
    """
    frame = table.frame(one_day)
    if _CLOSE not in frame.columns:
        raise BundleError(
            "market-data-mismatch",
            f"{table.data} has no column {_CLOSE}; it has {', '.join(table.columns)}.",
            "Give the daily_pv.h5 that RD-Agent's factors read.",
        )
    closes: pd.Series = frame[_CLOSE].droplevel("datetime")
    return closes

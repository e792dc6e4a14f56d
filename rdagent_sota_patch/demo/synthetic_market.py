"""Prices with a planted effect, as Qlib and RD-Agent read them, in the years that the installed RD-Agent back-tests.

Stocks move at random, except for what is planted here. The return from the close of day ``t+1`` to the
close of day ``t+2``, which is the label of RD-Agent's templates, rises with

- the mean overnight gap of the last 10 days, ``Mean($open/Ref($close, 1)-1, 10)``;
- a momentum that ends 65 days back, ``Ref($close, 65)/Ref($close, 125)-1``;
- the correlation of gap and volume, ``Corr($open/Ref($close, 1)-1, Log($volume), 20)``;
- and, weakly, the 60-day reversal ``Ref($close, 60)/$close``.

The first three are what the scripted factors mine. RD-Agent's Alpha features (``rdagent/utils/qlib.py``)
see none of them: their windows end after 60 days, and none compares an open with the close before. The
last is Alpha's own ``ROC60``, so that a model on Alpha alone has something to learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from rdagent_sota_patch.host_source import MODEL_TEMPLATE, find_host_if_any

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Panel = NDArray[np.float64]

BENCHMARK = "SH000300"
UNIVERSE = "csi300"

Spelling = Literal["SH600000", "000001.SZ"]
"""How instruments are written: with the exchange in front, as RD-Agent's templates have it, or at the end."""

DAILY_VOLATILITY = 0.018
GAP_VOLATILITY = 0.006
MINED_EFFECT = 0.0016
ALPHA_EFFECT = 0.0010

_BURN_IN = 160
# TopkDropoutStrategy of RD-Agent's templates holds 50; Qlib's executor looks one trading day past the end.
_MIN_STOCKS = 51
_DAYS_AFTER_END = 14
_DEBUG_STOCKS = 12

_README = """# How to read files
```python
import pandas as pd
df = pd.read_hdf("daily_pv.h5", key="data")
```
The key is always "data"; the index is (datetime, instrument).

| Filename      | Description                                          |
| ------------- | ---------------------------------------------------- |
| "daily_pv.h5" | Daily price and volume of a synthetic stock market.  |

$open, $close, $high, $low: prices of the stock on that day.
$volume: shares traded on that day.
$factor: adjustment factor of the stock on that day; always 1 here.
"""


@dataclass(frozen=True, slots=True)
class MarketSpec:
    """Which market to make; the same specification always gives the same one.

    Attributes:
        stocks: Number of stocks; RD-Agent's strategy holds 50 of them.
        start: First day of data. Mined factors need 126 trading days before their first value.
        end: Last day that a back-test may reach; the calendar goes on a little longer.
        spelling: How instruments are written. With the exchange at the end, every second stock is Shenzhen's.
    """

    seed: int = 20
    stocks: int = 64
    start: date = date(2017, 11, 1)
    end: date = date(2020, 3, 31)
    spelling: Spelling = "SH600000"

    def __post_init__(self) -> None:
        if self.stocks < _MIN_STOCKS:
            raise ValueError(f"{self.stocks} stocks: RD-Agent's strategy holds 50, so at least 51 are needed")


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """Prices and volumes by field, each of shape (days, stocks).

    Attributes:
        benchmark: The index of all stocks, as an instrument.
    """

    days: pd.DatetimeIndex
    instruments: tuple[str, ...]
    fields: dict[str, Panel]
    benchmark: str = BENCHMARK

    def frame(self) -> pd.DataFrame:
        """The market as RD-Agent's factor code reads it: index (datetime, instrument), columns $open …"""
        columns = {
            f"${name}": self.fields[name].ravel().astype(np.float32)
            for name in ("open", "close", "high", "low", "volume", "factor")
        }
        index = pd.MultiIndex.from_product([self.days, self.instruments], names=["datetime", "instrument"])
        frame: pd.DataFrame = pd.DataFrame(columns, index=index)
        return frame


def simulate_market(spec: MarketSpec) -> Market:
    """Draw the market that ``spec`` describes."""
    days = pd.bdate_range(spec.start, spec.end + timedelta(days=_DAYS_AFTER_END))
    total = len(days) + _BURN_IN
    rng = np.random.default_rng(spec.seed)
    shape = (total, spec.stocks)

    gap = rng.normal(0.0, GAP_VOLATILITY, shape)
    log_volume = rng.normal(14.5, 0.8, spec.stocks) + rng.normal(0.0, 0.35, shape)
    noise = rng.normal(0.0, DAILY_VOLATILITY, shape) + rng.normal(0.0002, 0.006, (total, 1))
    log_close = np.zeros(shape)
    log_close[0] = np.log(rng.uniform(8.0, 60.0, spec.stocks))
    drift = np.zeros(shape)
    for day in range(1, total):
        # A limit board of 10 % stops trading; the returns stay inside it.
        step = np.clip(noise[day] + drift[day], -0.09, 0.09)
        log_close[day] = log_close[day - 1] + np.log1p(step)
        if day >= 126 and day + 2 < total:
            drift[day + 2] = _planted_drift(log_close, gap, log_volume, day)

    close = np.exp(log_close)
    previous = np.vstack([close[:1], close[:-1]])
    opening = previous * (1.0 + gap)
    high = np.maximum(opening, close) * (1.0 + np.abs(rng.normal(0.0, 0.006, shape)))
    low = np.minimum(opening, close) * (1.0 - np.abs(rng.normal(0.0, 0.006, shape)))
    fields = {
        "open": opening,
        "close": close,
        "high": high,
        "low": low,
        "vwap": (opening + close + high + low) / 4.0,
        "volume": np.exp(log_volume),
        "factor": np.ones(shape),
        "change": close / previous - 1.0,
    }
    kept = {name: panel[_BURN_IN:] for name, panel in fields.items()}
    if spec.spelling == "SH600000":
        return Market(days, tuple(f"SH{600000 + number}" for number in range(spec.stocks)), kept)
    names = (f"{number:06d}.SZ" if number % 2 else f"{600000 + number}.SH" for number in range(spec.stocks))
    return Market(days, tuple(names), kept, benchmark="000300.SH")


def _planted_drift(log_close: Panel, gap: Panel, log_volume: Panel, day: int) -> Panel:
    """What the signals of ``day`` add to the returns two days later, per stock."""
    gaps, volumes = gap[day - 19 : day + 1], log_volume[day - 19 : day + 1]
    gaps = gaps - gaps.mean(axis=0)
    volumes = volumes - volumes.mean(axis=0)
    correlation = (gaps * volumes).sum(axis=0) / np.sqrt((gaps**2).sum(axis=0) * (volumes**2).sum(axis=0))
    mined = (
        _standardize(gap[day - 9 : day + 1].mean(axis=0))
        + _standardize(log_close[day - 65] - log_close[day - 125])
        + _standardize(correlation)
    )
    reversal = _standardize(log_close[day - 60] - log_close[day])
    return MINED_EFFECT * mined + ALPHA_EFFECT * reversal


def _standardize(values: Panel) -> Panel:
    standardized: Panel = np.clip((values - values.mean()) / values.std(), -3.0, 3.0)
    return standardized


def write_qlib_data(market: Market, folder: Path) -> None:
    """Write ``market`` as a Qlib provider folder: calendars, instruments, features.

    The benchmark is the equally weighted market, under the name that RD-Agent's templates give it as well. Each
    ``.bin`` is little-endian float32, the first value the index of its start in the calendar
    (``qlib/data/storage/file_storage.py``).
    """
    _write_text(folder / "calendars" / "day.txt", [f"{day:%Y-%m-%d}" for day in market.days])
    span = f"{market.days[0]:%Y-%m-%d}\t{market.days[-1]:%Y-%m-%d}"
    stocks = [f"{name}\t{span}" for name in market.instruments]
    _write_text(folder / "instruments" / f"{UNIVERSE}.txt", stocks)
    _write_text(folder / "instruments" / "all.txt", [*stocks, f"{market.benchmark}\t{span}"])
    for column, name in enumerate(market.instruments):
        _write_features(folder, name, {field: panel[:, column] for field, panel in market.fields.items()})
    change = market.fields["change"].mean(axis=1)
    level = 3000.0 * np.cumprod(1.0 + change)
    flat = dict.fromkeys(("open", "close", "high", "low", "vwap"), level)
    volume = market.fields["volume"].sum(axis=1)
    fields = {**flat, "volume": volume, "factor": np.ones_like(level), "change": change}
    for name in {BENCHMARK, market.benchmark}:
        _write_features(folder, name, fields)


def _write_features(folder: Path, instrument: str, fields: dict[str, Panel]) -> None:
    target = folder / "features" / instrument.lower()
    target.mkdir(parents=True, exist_ok=True)
    for name, values in fields.items():
        np.concatenate([[0.0], values]).astype("<f4").tofile(target / f"{name}.day.bin")


def _write_text(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_factor_data(market: Market, full: Path, debug: Path) -> None:
    """Write ``daily_pv.h5`` and its README for factor code: all of it, and a few stocks for debugging.

    The two folders are what ``FACTOR_CoSTEER_DATA_FOLDER`` and ``FACTOR_CoSTEER_DATA_FOLDER_DEBUG`` name.
    """
    frame = market.frame()
    few = frame[frame.index.get_level_values("instrument").isin(market.instruments[:_DEBUG_STOCKS])]
    for folder, data in ((full, frame), (debug, few)):
        folder.mkdir(parents=True, exist_ok=True)
        data.to_hdf(folder / "daily_pv.h5", key="data", mode="w")
        (folder / "README.md").write_text(_README, encoding="utf-8")


_VARIABLE = "{{ train_start"


@dataclass(frozen=True, slots=True)
class Segments:
    """The dates that a model is trained, validated and back-tested on."""

    train: tuple[date, date] = (date(2018, 7, 1), date(2019, 6, 30))
    valid: tuple[date, date] = (date(2019, 7, 1), date(2019, 10, 31))
    test: tuple[date, date] = (date(2019, 11, 1), date(2020, 3, 31))

    def variables(self) -> dict[str, str]:
        """The settings of all three commands (``rdagent/app/qlib_rd_loop/conf.py``) that hold these dates."""
        return {
            f"QLIB_{stage}_{segment.upper()}_{edge}": str(day)
            for stage in ("FACTOR", "MODEL", "QUANT")
            for segment in ("train", "valid", "test")
            for edge, day in zip(("START", "END"), getattr(self, segment), strict=True)
        }


FIXED_SEGMENTS = Segments(
    train=(date(2008, 1, 1), date(2014, 12, 31)),
    valid=(date(2015, 1, 1), date(2016, 12, 31)),
    test=(date(2017, 1, 1), date(2020, 8, 1)),
)
"""Those of 0.8.0, which no setting changes."""

# Few stocks, as the years are many; and half a year more before the first day, for the mined factors' windows.
_LONG_MARKET = MarketSpec(stocks=54, start=date(2007, 6, 1), end=FIXED_SEGMENTS.test[1])


def host_segments() -> Segments:
    """The dates of a run of the installed RD-Agent."""
    return FIXED_SEGMENTS if _has_fixed_dates() else Segments()


def host_market() -> MarketSpec:
    """A market for a run of the installed RD-Agent, as small as it takes."""
    return _LONG_MARKET if _has_fixed_dates() else MarketSpec()


def _has_fixed_dates() -> bool:
    host = find_host_if_any()
    template = host.read(MODEL_TEMPLATE) if host else ""
    return bool(template) and _VARIABLE not in template

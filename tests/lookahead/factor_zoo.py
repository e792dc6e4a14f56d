"""Factors that look ahead, and factors that do not, as language models write them; and a market to run them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

HEAD = """
import numpy as np
import pandas as pd

data = pd.read_hdf("daily_pv.h5", key="data").sort_index()
close, volume = data["$close"], data["$volume"]


def by_stock(series):
    return series.groupby(level="instrument", group_keys=False)


def by_day(series):
    return series.groupby(level="datetime", group_keys=False)


def long(wide):
    return wide.stack().rename_axis(["datetime", "instrument"])


wide = close.unstack("instrument")
"""

FOOT = """
factor.rename("Factor").to_frame().to_hdf("result.h5", key="data")
"""

LOOK_AHEAD: dict[str, str] = {
    "NextClose": "factor = by_stock(close).shift(-1) / close - 1",
    "NextWeek": "factor = by_stock(close).transform(lambda rows: rows.pct_change(5, fill_method=None).shift(-5))",
    "NegativePeriods": "factor = by_stock(close).transform(lambda rows: rows.pct_change(-1, fill_method=None))",
    "CentredMean": "factor = by_stock(close).transform(lambda rows: rows.rolling(11, center=True).mean())",
    "OwnMean": "factor = close / by_stock(close).transform('mean')",
    "WholeZScore": "factor = (close - close.mean()) / close.std()",
    "RankOverTime": "factor = by_stock(close).rank(pct=True)",
    "MinMax": "factor = by_stock(close).transform(lambda rows: (rows - rows.min()) / (rows.max() - rows.min()))",
    "BackwardFill": "factor = by_stock(volume).bfill() / 1e6",
    "WideBackwardFill": "factor = long(wide.bfill())",
    "Interpolated": "factor = by_stock(volume).transform(lambda rows: rows.interpolate())",
    "FutureHigh": "factor = by_stock(close).transform(lambda rows: rows[::-1].cummax()[::-1]) / close",
    "QuantileBins": "factor = pd.qcut(close, 20, labels=False, duplicates='drop').astype(float)",
    "MonthMean": (
        "month = close.index.get_level_values('datetime').to_period('M')\n"
        "factor = close / close.groupby([close.index.get_level_values('instrument'), month]).transform('mean')"
    ),
    "WeekEnd": (
        "week = close.index.get_level_values('datetime').to_period('W')\n"
        "factor = close.groupby([close.index.get_level_values('instrument'), week]).transform('last') / close"
    ),
    "WholeTrend": (
        "def rest(rows):\n"
        "    time = np.arange(len(rows))\n"
        "    return rows - np.polyval(np.polyfit(time, rows.ffill().bfill(), 1), time)\n"
        "factor = by_stock(close).transform(rest)"
    ),
    "Gradient": "factor = by_stock(close).transform(lambda rows: pd.Series(np.gradient(rows), rows.index))",
    "Winsorized": "factor = close.clip(close.quantile(0.02), close.quantile(0.98))",
    "Fourier": (
        "def smooth(rows):\n"
        "    waves = np.fft.rfft(rows.ffill().bfill())\n"
        "    waves[20:] = 0\n"
        "    return pd.Series(np.fft.irfft(waves, len(rows)), rows.index)\n"
        "factor = by_stock(close).transform(smooth)"
    ),
    "BarelyAhead": "factor = close.astype('float64') + 1e-9 * by_stock(close).shift(-1).fillna(0)",
}
"""Each sees the future."""

HONEST: dict[str, str] = {
    "Momentum20": "factor = close / by_stock(close).shift(20) - 1",
    "Mean20": "factor = by_stock(close).transform(lambda rows: rows.rolling(20).mean()) / close",
    "YearHigh": "factor = close / by_stock(close).transform(lambda rows: rows.rolling(250).max())",
    "SlowEwm": "factor = by_stock(close).transform(lambda rows: rows.ewm(halflife=60).mean()) / close",
    "Expanding": "factor = close / by_stock(close).transform(lambda rows: rows.expanding().mean())",
    "CumulativeVolume": "factor = by_stock(volume.fillna(0).astype('float64')).cumsum()",
    "Drawdown": "factor = close / by_stock(close).cummax() - 1",
    "RankByDay": "factor = by_day(close).rank(pct=True)",
    "ZScoreByDay": "factor = (close - by_day(close).transform('mean')) / by_day(close).transform('std')",
    # Sums over rows of a matrix in float32: other columns, other rounding.
    "WideDemeaned": "factor = long(wide.sub(wide.mean(axis=1), axis=0))",
    "ForwardFill": "factor = by_stock(volume).ffill() / 1e6",
    "Correlation": (
        "pair = pd.DataFrame({'c': close, 'v': volume})\n"
        "factor = pair.groupby(level='instrument', group_keys=False)"
        ".apply(lambda rows: rows['c'].rolling(20).corr(rows['v'])).sort_index()"
    ),
    "LastWeeksMean": (
        "week = close.index.get_level_values('datetime').to_period('W').rename('week')\n"
        "stock = close.index.get_level_values('instrument')\n"
        "means = close.groupby([stock, week]).mean().groupby(level='instrument').shift(1)\n"
        "factor = close / means.reindex(pd.MultiIndex.from_arrays([stock, week])).to_numpy()"
    ),
    "Neutralized": (
        "def rest(rows):\n"
        "    design = np.column_stack([np.ones(len(rows)), np.log(rows['v'].fillna(1.0) + 1)])\n"
        "    return rows['c'] - design @ np.linalg.lstsq(design, rows['c'], rcond=None)[0]\n"
        "frame = pd.DataFrame({'c': close, 'v': volume}).dropna(subset=['c']).astype('float64')\n"
        "factor = frame.groupby(level='datetime', group_keys=False).apply(rest)"
    ),
    "KeptInAFile": (
        "from pathlib import Path\n"
        "if not Path('kept.pkl').exists():\n"
        "    (close / by_stock(close).shift(3)).to_pickle('kept.pkl')\n"
        "factor = pd.read_pickle('kept.pkl')"
    ),
    "StoreOpenedForWriting": (
        "with pd.HDFStore('daily_pv.h5') as store:\n"
        "    factor = store['data']['$close'] / store['data']['$open'] - 1"
    ),
    "ReadForAppending": "factor = pd.read_hdf('daily_pv.h5', mode='a')['$close'].sort_index() / close - 1 + volume",
    "StocksFirst": "factor = (close / by_stock(close).shift(5)).dropna().swaplevel().sort_index()",
}
"""None sees the future."""


def code_of(body: str) -> str:
    """A whole ``factor.py``."""
    return HEAD + body + FOOT


def codes_of(bodies: dict[str, str]) -> dict[str, str]:
    """Name to ``factor.py``."""
    return {name: code_of(body) for name, body in bodies.items()}


def write_market(path: Path, stocks: int = 30, days: int = 300) -> pd.DataFrame:
    """A ``daily_pv.h5`` as Qlib's data gives it: float32, stocks listed late, halted days without rows or volume."""
    random = np.random.default_rng(7)
    calendar = pd.bdate_range("2019-01-02", periods=days, name="datetime")
    names = pd.Index([f"SH{600000 + place}" for place in range(stocks)], name="instrument")
    prices = pd.DataFrame(
        20 * np.exp(np.cumsum(random.normal(0, 0.02, (days, stocks)), axis=0)), calendar, names
    )
    for place in range(0, stocks, 5):  # Listed later and later.
        prices.iloc[: place * days // stocks, place] = np.nan
    for place in range(1, stocks, 6):  # Halted for some days, now and then.
        for start in range(20 + place, days - 12, 45):
            prices.iloc[start : start + 6, place] = np.nan
    close = prices.stack().rename("$close")
    frame = pd.DataFrame({"$open": close, "$close": close, "$high": close * 1.01, "$low": close * 0.99})
    frame["$volume"] = random.lognormal(13, 0.5, len(frame))
    frame.loc[random.random(len(frame)) < 0.03, "$volume"] = np.nan
    frame["$factor"] = 1.0
    frame = frame.astype("float32").sort_index()
    frame.to_hdf(path, key="data")
    return frame


def write_folder(folder: Path) -> None:
    """A data folder: that market, a second daily table of the same rows, and reports of each stock every 60 days."""
    frame = write_market(folder / "daily_pv.h5")
    frame[["$volume"]].rename(columns={"$volume": "mf_net"}).to_parquet(folder / "static_factors.parquet")
    close = frame["$close"].unstack("instrument").ffill().bfill()
    reports = pd.concat(
        close.iloc[10 + place % 7 :: 60, [place]].stack().rename("profit") for place in range(close.shape[1])
    )
    reports.index.names = ["trade_date", "instrument"]
    reports.sort_index().reset_index().to_csv(folder / "reports.csv", index=False)

"""Factors that look ahead: everywhere, now and then, or where nobody looks."""

from __future__ import annotations

EVERYWHERE: dict[str, str] = {
    "QuarterMean": (
        "quarter = close.index.get_level_values('datetime').to_period('Q')\n"
        "factor = close / close.groupby([close.index.get_level_values('instrument'), quarter]).transform('mean')"
    ),
    "WeekAsofForward": (
        "days = close.index.get_level_values('datetime').unique()\n"
        "weekly = wide.resample('W-FRI').last()\n"
        "weekly.index.name = 'datetime'\n"
        "both = pd.merge_asof(pd.DataFrame({'datetime': days}), weekly.reset_index(), on='datetime',"
        " direction='forward')\n"
        "factor = long(wide / both.set_index('datetime'))"
    ),
    "WeekBackwardFill": "factor = long(wide / wide.resample('W').last().reindex(wide.index, method='bfill'))",
    "TwoSidedEwm": (
        "factor = by_stock(close).transform("
        "lambda rows: (rows.ewm(span=5).mean() + rows[::-1].ewm(span=5).mean()[::-1]) / 2)"
    ),
    "PrincipalComponent": (
        "returns = wide.pct_change(fill_method=None).fillna(0)\n"
        "left, sizes, right = np.linalg.svd(returns.to_numpy(float), full_matrices=False)\n"
        "common = pd.DataFrame(np.outer(left[:, 0] * sizes[0], right[0]), returns.index, returns.columns)\n"
        "factor = long(returns - common)"
    ),
    "WholeRegression": (
        "x = by_stock(volume).transform(lambda rows: rows / rows.rolling(20).mean())\n"
        "y = by_stock(close).pct_change(fill_method=None)\n"
        "known = x.notna() & y.notna()\n"
        "slope, base = np.polyfit(x[known], y[known], 1)\n"
        "factor = y - slope * x - base"
    ),
    "OverLastPrice": "factor = close / by_stock(close).transform('last')",
    "OffByOne": (
        "def mean(rows):\n"
        "    values = rows.to_numpy()\n"
        "    return pd.Series([values[max(0, i - 4):i + 2].mean() for i in range(len(values))], rows.index)\n"
        "factor = by_stock(close).transform(mean)"
    ),
    "Rolled": "factor = by_stock(close).transform(lambda rows: np.roll(rows.to_numpy(), -1)) / close",
    "RollingBackwards": "factor = by_stock(volume).transform(lambda rows: rows[::-1].rolling(5).sum()[::-1])",
    "Convolved": "factor = by_stock(close).transform(lambda rows: np.convolve(rows, np.ones(5) / 5, 'same'))",
    "SortedDescending": (
        "falling = data.sort_index(ascending=False)['$close']\n"
        "factor = falling / falling.groupby(level='instrument').shift(3) - 1"
    ),
    "CorrelationWithNext": (
        "returns = wide.pct_change(fill_method=None)\nfactor = long(returns.rolling(10).corr(returns.shift(-1)))"
    ),
    "DiffBackwards": "factor = by_stock(close).diff(-3)",
    "YearRank": (
        "year = close.index.get_level_values('datetime').year\n"
        "factor = close.groupby([close.index.get_level_values('instrument'), year]).rank(pct=True)"
    ),
    "WholeUniverse": "factor = long(wide.dropna(axis=1, thresh=int(0.9 * len(wide))).pct_change(5))",
    "MostVolatile": (
        "chosen = wide.pct_change(fill_method=None).std().nlargest(10).index\n"
        "factor = long(wide[chosen].pct_change(10, fill_method=None))"
    ),
    "Fitted": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "frame = pd.DataFrame({'one': 1.0, 'r': returns, 'v': np.log(volume), 'y': by_stock(returns).shift(-1)})\n"
        "known = frame.dropna()\n"
        "beta = np.linalg.lstsq(known[['one', 'r', 'v']], known['y'], rcond=None)[0]\n"
        "factor = frame[['one', 'r', 'v']] @ beta"
    ),
    "Hilbert": (
        "from scipy.signal import hilbert\n"
        "factor = by_stock(close).transform(lambda rows: np.abs(hilbert(rows - rows.mean())))"
    ),
    "Savgol": (
        "from scipy.signal import savgol_filter\n"
        "factor = by_stock(close).transform(lambda rows: savgol_filter(rows, 7, 2)) / close"
    ),
    "SeasonalMean": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "weekday = close.index.get_level_values('datetime').dayofweek\n"
        "factor = returns - returns.groupby([close.index.get_level_values('instrument'), weekday]).transform('mean')"
    ),
    "StillToCome": (
        "factor = by_stock(volume.fillna(0)).transform('sum') - by_stock(volume.fillna(0)).cumsum()"
    ),
    "NextFromSideFile": (
        "side = pd.read_parquet('static_factors.parquet').sort_index()\n"
        "factor = side['mf_net'].groupby(level='instrument').shift(-1)"
    ),
    "StoreAndApply": (
        "with pd.HDFStore('daily_pv.h5') as store:\n"
        "    frame = store['data'].sort_index()\n"
        "def one(rows):\n"
        "    rows = rows.copy()\n"
        "    rows['f'] = rows['$high'].shift(-2).fillna(0) / rows['$low']\n"
        "    return rows['f']\n"
        "factor = frame.groupby(level='instrument', group_keys=False).apply(one)"
    ),
}

RARE: dict[str, str] = {
    # The cases that were missed before.
    "SuspensionInterpolated": (
        "full = long(wide.interpolate(limit_area='inside'))\nfactor = full / by_stock(full).shift(5) - 1"
    ),
    "WarmUpBackfilled": (
        "mean = by_stock(close).transform(lambda rows: rows.rolling(20).mean())\n"
        "factor = close / by_stock(mean).bfill() - 1"
    ),
    "JumpDays": (
        "past = close / by_stock(close).shift(1) - 1\n"
        "ahead = by_stock(close).shift(-1) / close - 1\n"
        "factor = past.where(past.abs() < 0.055, ahead)"
    ),
    "FutureFlag": (
        "ahead = by_stock(close).shift(-5) / close - 1\n"
        "factor = ((ahead > 0.13) & (by_stock(close).cumcount() > 10)).astype(float)"
    ),
    "MonthEnds": (
        "days = wide.index\n"
        "month_end = pd.Series(days.month, days) != pd.Series(days.month, days).shift(-1)\n"
        "returns = wide.pct_change(fill_method=None)\n"
        "factor = long(returns.where(~month_end, returns.shift(-1)))"
    ),
    "QuarterEnds": (
        "days = wide.index\n"
        "quarter = pd.Series(days.quarter, days)\n"
        "last = (quarter != quarter.shift(-1)).to_numpy()\n"
        "momentum = wide.pct_change(20, fill_method=None)\n"
        "momentum[last] = momentum.shift(-20)[last]\n"
        "factor = long(momentum)"
    ),
    "Fridays": (
        "returns = wide.pct_change(fill_method=None)\n"
        "friday = returns.index.dayofweek == 4\n"
        "returns[friday] = returns.shift(-1)[friday]\n"
        "factor = long(returns)"
    ),
    "OneStock": (
        "returns = wide.pct_change(fill_method=None)\n"
        "returns['SH600007'] = returns['SH600007'].shift(-1)\n"
        "factor = long(returns)"
    ),
    "OneWeek": (
        "returns = wide.pct_change(fill_method=None)\n"
        "returns.loc['2019-06-03':'2019-06-07'] = returns.shift(-3).loc['2019-06-03':'2019-06-07']\n"
        "factor = long(returns)"
    ),
    "VolumeMeanFilled": (
        "factor = volume.fillna(by_stock(volume).transform('mean')) / "
        "by_stock(volume).transform(lambda rows: rows.rolling(20, min_periods=1).mean())"
    ),
    "VolumeMedianFilled": (
        "filled = volume.fillna(volume.median())\n"
        "factor = by_stock(filled).transform(lambda rows: rows.rolling(5).mean())"
    ),
    "VolumeNextFilled": (
        "filled = by_stock(volume).transform(lambda rows: rows.ffill(limit=1).bfill(limit=1))\n"
        "factor = by_stock(volume.where(by_stock(volume).shift(1).isna(), filled).fillna(filled)).pct_change()"
    ),
    "VolumeBackwardOnce": "factor = np.log(by_stock(volume).bfill(limit=1))",
    "HighVolumeOnly": (
        "usual = by_stock(volume).transform(lambda rows: rows.rolling(20).mean())\n"
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "factor = returns.where(~(volume > 3 * usual), by_stock(returns).shift(-2))"
    ),
    "Zigzag": (
        "from scipy.signal import argrelextrema\n"
        "def lows(rows):\n"
        "    flags = np.zeros(len(rows))\n"
        "    flags[argrelextrema(rows.to_numpy(), np.less, order=8)[0]] = 1\n"
        "    return pd.Series(flags, rows.index)\n"
        "factor = by_stock(close).transform(lows)"
    ),
    "ClippedAtThreeSigma": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "factor = returns.clip(returns.mean() - 3 * returns.std(), returns.mean() + 3 * returns.std())"
    ),
    "ClippedByStock": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "factor = by_stock(returns).transform(lambda rows: rows.clip(rows.quantile(0.005), rows.quantile(0.995)))"
    ),
    "GapThenNextLow": (
        "gap = data['$open'] / by_stock(close).shift(1) - 1\n"
        "low = by_stock(data['$low']).shift(-1) / close\n"
        "factor = gap.where(gap.abs() < 0.05, low)"
    ),
    "TradeableTomorrow": "factor = long(wide.pct_change(5, fill_method=None).where(wide.shift(-1).notna()))",
    "JumpDaysRanked": (
        "past = close / by_stock(close).shift(1) - 1\n"
        "ahead = by_stock(close).shift(-1) / close - 1\n"
        "factor = by_day(past.where(past.abs() < 0.05, ahead)).rank(pct=True)"
    ),
    "FilledFromBehindOnce": "factor = long(wide.bfill(limit=1).pct_change(10, fill_method=None))",
    "FirstDayOfAll": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "factor = returns.fillna(by_stock(returns).bfill(limit=1).where(by_stock(close).cumcount() == 0))"
    ),
    "EarlyFilledByMean": (
        "strength = by_stock(close).transform(lambda rows: rows.pct_change(60, fill_method=None))\n"
        "factor = strength.fillna(by_stock(strength).transform('mean'))"
    ),
    "NearestReport": (
        "side = pd.read_csv('reports.csv', parse_dates=['trade_date']).sort_values('trade_date')\n"
        "rows = data.reset_index()[['datetime', 'instrument']].sort_values('datetime')\n"
        "both = pd.merge_asof(rows, side, left_on='datetime', right_on='trade_date', by='instrument',"
        " direction='nearest')\n"
        "factor = both.set_index(['datetime', 'instrument'])['profit'].sort_index()"
    ),
    "ReportsFilledBackwards": (
        "side = pd.read_csv('reports.csv', parse_dates=['trade_date'])\n"
        "side = side.pivot(index='trade_date', columns='instrument', values='profit')\n"
        "factor = long(side.reindex(wide.index).ffill().bfill())"
    ),
    "LimitUpTomorrow": (
        "ahead = by_stock(close).shift(-1) / close - 1\n"
        "base = by_stock(close).transform(lambda rows: rows.rolling(10).std()) / close\n"
        "factor = base * (1 - 0.01 * (ahead > 0.05))"
    ),
    "CrossingDays": (
        "fast = by_stock(close).transform(lambda rows: rows.rolling(5).mean())\n"
        "slow = by_stock(close).transform(lambda rows: rows.rolling(30).mean())\n"
        "crossed = (fast > slow) & (by_stock(fast).shift(1) <= by_stock(slow).shift(1))\n"
        "factor = (fast / slow).where(~crossed, by_stock(fast).shift(-2) / slow)"
    ),
}

SUBTLE: dict[str, str] = {
    "HundredthPart": (
        "factor = by_stock(close).transform(lambda rows: rows.pct_change(10, fill_method=None)"
        " + 0.001 * rows.pct_change(2, fill_method=None).shift(-2).fillna(0))"
    ),
    "SharedWholeStd": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "factor = np.tanh(returns / (5 * returns.std()))"
    ),
    "MarketMeanOfAll": (
        "market = wide.pct_change(fill_method=None).mean(axis=1)\n"
        "factor = long(wide.pct_change(fill_method=None).sub(market - market.mean() * 0.1, axis=0))"
    ),
}

LOOK_AHEAD: dict[str, str] = {**EVERYWHERE, **RARE, **SUBTLE}

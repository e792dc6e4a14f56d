"""Factors that do not look ahead, among them those that look as if they did."""

from __future__ import annotations

ALPHAS: dict[str, str] = {
    "Alpha001": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "spread = by_stock(returns).transform(lambda rows: rows.rolling(20).std())\n"
        "base = close.where(returns >= 0, spread) ** 2\n"
        "factor = by_day(by_stock(base).transform(lambda rows: rows.rolling(5).apply(np.argmax, raw=True)))"
        ".rank(pct=True) - 0.5"
    ),
    "Alpha002": (
        "first = by_day(by_stock(np.log(volume)).diff(2)).rank(pct=True)\n"
        "second = by_day((close - data['$open']) / data['$open']).rank(pct=True)\n"
        "factor = -long(first.unstack().rolling(6).corr(second.unstack()))"
    ),
    "Alpha003": (
        "left, right = by_day(data['$open']).rank(pct=True), by_day(volume).rank(pct=True)\n"
        "factor = -long(left.unstack().rolling(10).corr(right.unstack()))"
    ),
    "Alpha012": "factor = np.sign(by_stock(volume).diff()) * -by_stock(close).diff()",
    "Alpha033": "factor = by_day(-(1 - data['$open'] / close)).rank(pct=True)",
    "Alpha041": "factor = np.sqrt(data['$high'] * data['$low']) - close",
    "Alpha101": "factor = (close - data['$open']) / (data['$high'] - data['$low'] + 0.001)",
    "Decay": (
        "weights = np.arange(1, 11) / 55\n"
        "mean = by_stock(close).transform(lambda rows: rows.rolling(10).apply(lambda v: v @ weights, raw=True))\n"
        "factor = mean / close"
    ),
}

USUAL: dict[str, str] = {
    "Rsi": (
        "def rsi(rows):\n"
        "    step = rows.diff()\n"
        "    up = step.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()\n"
        "    down = (-step.clip(upper=0)).ewm(alpha=1 / 14, adjust=False).mean()\n"
        "    return 100 - 100 / (1 + up / down)\n"
        "factor = by_stock(close).transform(rsi)"
    ),
    "Macd": (
        "def macd(rows):\n"
        "    line = rows.ewm(span=12, adjust=False).mean() - rows.ewm(span=26, adjust=False).mean()\n"
        "    return line - line.ewm(span=9, adjust=False).mean()\n"
        "factor = by_stock(close).transform(macd)"
    ),
    "Kdj": (
        "low = by_stock(data['$low']).transform(lambda rows: rows.rolling(9, min_periods=1).min())\n"
        "high = by_stock(data['$high']).transform(lambda rows: rows.rolling(9, min_periods=1).max())\n"
        "rsv = ((close - low) / (high - low)).fillna(0.5)\n"
        "k = by_stock(rsv).transform(lambda rows: rows.ewm(com=2, adjust=False).mean())\n"
        "factor = 3 * k - 2 * by_stock(k).transform(lambda rows: rows.ewm(com=2, adjust=False).mean())"
    ),
    "NumpyLoop": (
        "def state(rows):\n"
        "    values, out, held = rows.to_numpy(), np.zeros(len(rows)), 0.0\n"
        "    for i in range(1, len(values)):\n"
        "        held = 0.9 * held + (values[i] / values[i - 1] - 1)\n"
        "        out[i] = held\n"
        "    return pd.Series(out, rows.index)\n"
        "factor = by_stock(close).transform(state)"
    ),
    "Hysteresis": (
        "def flips(rows):\n"
        "    mean, on, out = rows.rolling(20).mean().to_numpy(), 0.0, []\n"
        "    for value, usual in zip(rows.to_numpy(), mean):\n"
        "        on = 1.0 if value > 1.03 * usual else 0.0 if value < 0.97 * usual else on\n"
        "        out.append(on)\n"
        "    return pd.Series(out, rows.index)\n"
        "factor = by_stock(close).transform(flips)"
    ),
    "Kalman": (
        "def track(rows):\n"
        "    level, doubt, out = float(rows.iloc[0]), 1.0, []\n"
        "    for value in rows.to_numpy(float):\n"
        "        doubt += 0.01\n"
        "        gain = doubt / (doubt + 0.1)\n"
        "        level, doubt = level + gain * (value - level), (1 - gain) * doubt\n"
        "        out.append(level)\n"
        "    return pd.Series(out, rows.index)\n"
        "factor = by_stock(close).transform(track) / close"
    ),
    "RollingSlope": (
        "time = np.arange(15)\n"
        "factor = by_stock(close).transform("
        "lambda rows: rows.rolling(15).apply(lambda v: np.polyfit(time, v, 1)[0], raw=True)) / close"
    ),
    "SlidingWindows": (
        "from numpy.lib.stride_tricks import sliding_window_view\n"
        "matrix = wide.to_numpy(float)\n"
        "spread = np.full(matrix.shape, np.nan)\n"
        "spread[9:] = sliding_window_view(matrix, 10, axis=0).std(axis=-1)\n"
        "factor = long(pd.DataFrame(spread, wide.index, wide.columns) / wide)"
    ),
    "BetaToMarket": (
        "returns = wide.pct_change(fill_method=None)\n"
        "market = returns.mean(axis=1)\n"
        "factor = long(returns.rolling(30).cov(market).div(market.rolling(30).var(), axis=0))"
    ),
    "Skew": "factor = by_stock(by_stock(close).pct_change(fill_method=None)).transform(lambda r: r.rolling(20).skew())",
    "Kurtosis": "factor = by_stock(close).transform(lambda rows: rows.pct_change(fill_method=None).rolling(20).kurt())",
    "ExpandingZScore": (
        "factor = by_stock(close).transform("
        "lambda rows: (rows - rows.expanding(20).mean()) / rows.expanding(20).std())"
    ),
    "ExpandingRank": "factor = by_stock(close).transform(lambda rows: rows.expanding().rank(pct=True))",
    "DaysSinceHigh": (
        "factor = by_stock(close).transform(lambda rows: rows.rolling(60, min_periods=1).apply("
        "lambda v: len(v) - 1 - np.argmax(v), raw=True))"
    ),
    "VolumeWeighted": (
        "paid = by_stock(close * volume).transform(lambda rows: rows.rolling(10).sum())\n"
        "factor = paid / by_stock(volume).transform(lambda rows: rows.rolling(10).sum()) / close"
    ),
    "Float32Sum": "factor = by_stock(close.astype('float32')).cumsum() / by_stock(close).cumcount().add(1)",
    "MedianDeviation": (
        "middle = by_day(close).transform('median')\n"
        "factor = (close - middle) / by_day((close - middle).abs()).transform('median')"
    ),
    "DayBuckets": (
        "factor = by_day(volume).transform(lambda rows: pd.qcut(rows, 5, labels=False, duplicates='drop'))"
        ".astype(float)"
    ),
    "RankTiesFirst": "factor = by_day(close.round(0)).rank(method='first')",
    "ClippedByDay": (
        "score = (volume - by_day(volume).transform('mean')) / by_day(volume).transform('std')\n"
        "factor = score.clip(-2, 2)"
    ),
    "RareFlag": "factor = (by_stock(close).pct_change(fill_method=None).abs() > 0.055).astype(int)",
    "RankSelected": (
        "past = by_stock(close).pct_change(fill_method=None)\n"
        "factor = by_day(past.where(past.abs() < 0.05, by_stock(past).shift(1))).rank(pct=True)"
    ),
}

LOOKS_LIKE_IT: dict[str, str] = {
    # A minimum of rows is none of the future's business, though the past has more values when there is a future.
    "NoValueForShortHistories": (
        "def one(rows):\n"
        "    if len(rows) < 60:\n"
        "        return pd.Series(np.nan, rows.index)\n"
        "    return rows / rows.rolling(20, min_periods=1).mean()\n"
        "factor = by_stock(close).transform(one)"
    ),
    "ShortHistoriesRanked": (
        "def one(rows):\n"
        "    return rows.pct_change(3, fill_method=None) if len(rows) >= 30 else rows * np.nan\n"
        "factor = by_day(by_stock(close).transform(one)).rank(pct=True)"
    ),
    "WindowAsLongAsThereIs": (
        "window = min(60, data.index.get_level_values('datetime').nunique())\n"
        "factor = by_stock(close).transform(lambda rows: rows.rolling(window).mean()) / close"
    ),
    "FailsOnLittle": (
        "assert data.index.get_level_values('datetime').nunique() >= 30, 'not enough history'\n"
        "factor = by_stock(close).transform(lambda rows: rows.rolling(5, min_periods=1).mean())"
    ),
    "WeekShifted": (
        "weekly = wide.resample('W-FRI').last().shift(1)\n"
        "factor = long(wide / weekly.reindex(wide.index, method='ffill'))"
    ),
    "AsofBackward": (
        "side = pd.read_csv('reports.csv', parse_dates=['trade_date']).sort_values('trade_date')\n"
        "rows = data.reset_index()[['datetime', 'instrument']].sort_values('datetime')\n"
        "both = pd.merge_asof(rows, side, left_on='datetime', right_on='trade_date', by='instrument')\n"
        "factor = both.set_index(['datetime', 'instrument'])['profit'].sort_index()"
    ),
    "SideFile": (
        "side = pd.read_parquet('static_factors.parquet').sort_index()\n"
        "factor = side['mf_net'] / side.groupby(level='instrument')['mf_net'].shift(5)"
    ),
    "ForwardLimited": "factor = long(wide.ffill(limit=3).pct_change(3, fill_method=None))",
    "InterpolatedSoFar": (
        "def past_line(rows):\n"
        "    return rows.fillna(2 * rows.ffill().shift(1) - rows.ffill().shift(2))\n"
        "factor = np.log(by_stock(volume).transform(past_line).clip(lower=1))"
    ),
    "DaysOfNothingDropped": "factor = long(wide.dropna(how='all').pct_change(10, fill_method=None))",
    "SeededWeights": (
        "weights = np.random.RandomState(42).rand(10)\n"
        "factor = by_stock(close).transform(lambda rows: rows.rolling(10).apply(lambda v: v @ weights, raw=True))"
    ),
    "FridaysOnly": (
        "found = by_stock(close).pct_change(5, fill_method=None)\n"
        "factor = found[found.index.get_level_values('datetime').dayofweek == 4]"
    ),
    "MonthToDate": (
        "month = close.index.get_level_values('datetime').to_period('M')\n"
        "first = close.groupby([close.index.get_level_values('instrument'), month]).transform('first')\n"
        "factor = close / first - 1"
    ),
    "FirstOfAll": "factor = close / by_stock(close).transform('first')",
    "FromADayOn": "factor = by_stock(close).pct_change(fill_method=None).sort_index().loc['2019-03-01':]",
    "Infinite": "factor = by_stock(close).diff() / by_stock(volume.fillna(0)).diff().round(-6)",
    "Reversed": "factor = (by_stock(volume).shift(2) / volume).sort_index(ascending=False)",
    "ResetAndSorted": (
        "flat = data.reset_index().sort_values(['instrument', 'datetime'])\n"
        "flat['f'] = flat.groupby('instrument')['$close'].pct_change(4, fill_method=None)\n"
        "factor = flat.set_index(['datetime', 'instrument'])['f'].dropna()"
    ),
    "Categories": (
        "flat = data.reset_index()\n"
        "flat['instrument'] = flat['instrument'].astype('category')\n"
        "flat['f'] = flat.groupby('instrument', observed=True)['$volume'].shift(1)\n"
        "flat['instrument'] = flat['instrument'].astype(str)\n"
        "factor = flat.set_index(['datetime', 'instrument'])['f']"
    ),
    "OwnParquet": (
        "by_stock(close).shift(2).to_frame('f').to_parquet('own.parquet')\n"
        "factor = pd.read_parquet('own.parquet')['f'] / close"
    ),
}

HONEST: dict[str, str] = {**ALPHAS, **USUAL, **LOOKS_LIKE_IT}

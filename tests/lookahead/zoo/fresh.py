"""Factors written when the choice of cuts was done, to measure it: what they led to is in ``docs/benchmarks.md``."""

from __future__ import annotations

LOOK_AHEAD: dict[str, str] = {
    "FreshTripleBarrier": (
        "def label(rows):\n"
        "    v, out = rows.to_numpy(), np.zeros(len(rows))\n"
        "    for i in range(len(v)):\n"
        "        for k in range(1, 11):\n"
        "            if i + k >= len(v):\n"
        "                break\n"
        "            if v[i + k] / v[i] - 1 > 0.08:\n"
        "                out[i] = 1\n"
        "                break\n"
        "            if v[i + k] / v[i] - 1 < -0.08:\n"
        "                out[i] = -1\n"
        "                break\n"
        "    return pd.Series(out, rows.index)\n"
        "factor = by_stock(close).transform(label)"
    ),
    "FreshCrashAvoided": (
        "momentum = by_stock(close).pct_change(20, fill_method=None)\n"
        "worst = by_stock(close).transform(lambda r: r[::-1].rolling(3).min()[::-1]) / close - 1\n"
        "factor = momentum.where(worst > -0.075, 0.0)"
    ),
    "FreshIsotonic": (
        "when = close.index.get_level_values('datetime')\n"
        "first = wide.index[0]\n"
        "age = pd.Series((when - first).days, close.index)\n"
        "factor = close / by_stock(close).transform('first') - age / age.max()"
    ),
    "FreshAutoScale": (
        "momentum = wide.pct_change(5, fill_method=None)\nfactor = long(momentum / momentum.abs().max())"
    ),
    "FreshOutlierRemoved": (
        "returns = by_stock(close).pct_change(fill_method=None)\n"
        "limit = returns.abs().quantile(0.999)\n"
        "factor = returns.mask(returns.abs() > limit)"
    ),
    "FreshSpike": (
        "v = by_stock(volume)\n"
        "spike = (volume > 2.5 * v.shift(1)) & (volume > 2.5 * v.shift(-1))\n"
        "factor = np.log(volume.mask(spike, v.shift(1)))"
    ),
    "FreshCubicGaps": "factor = long(wide.interpolate(method='linear', limit=2).pct_change(8, fill_method=None))",
    "FreshWeekdayMap": (
        "week = wide.index.to_period('W')\n"
        "last = wide.groupby(week).transform('last')\n"
        "monday = wide.index.dayofweek == 0\n"
        "out = wide.pct_change(fill_method=None)\n"
        "out[monday] = (last / wide - 1)[monday]\n"
        "factor = long(out)"
    ),
    "FreshDrawdownTrough": (
        "def trough(rows):\n"
        "    fall = rows / rows.cummax() - 1\n"
        "    out = fall.copy()\n"
        "    out[:] = 0.0\n"
        "    out[fall.idxmin()] = 1.0\n"
        "    return out\n"
        "factor = by_stock(close).transform(trough)"
    ),
    "FreshMarketRegime": (
        "index = wide.pct_change(fill_method=None).mean(axis=1)\n"
        "ahead = index.rolling(5).sum().shift(-5)\n"
        "bad = ahead < -0.02\n"
        "out = wide.pct_change(10, fill_method=None)\n"
        "out[bad] = -out[bad]\n"
        "factor = long(out)"
    ),
    "FreshMarketShockRanked": (
        "index = wide.pct_change(fill_method=None).mean(axis=1)\n"
        "shock = index.shift(-1).abs() > 0.009\n"
        "out = wide.pct_change(10, fill_method=None)\n"
        "out[shock] = wide.pct_change(fill_method=None).shift(-1)[shock]\n"
        "factor = long(out.rank(axis=1, pct=True))"
    ),
    "FreshHalfLife": (
        "def fit(rows):\n"
        "    x = rows.ffill().bfill()\n"
        "    k = np.polyfit(x[:-1], np.diff(x), 1)[0]\n"
        "    return rows.diff() * k\n"
        "factor = by_stock(close).transform(fit)"
    ),
    "FreshSuspensionKnown": (
        "halted = wide.isna() & wide.ffill().notna() & wide.bfill().notna()\n"
        "soon = halted.shift(-3).eq(True)\n"
        "factor = long(wide.pct_change(3, fill_method=None).mask(soon & wide.notna(), -0.5))"
    ),
    "FreshLastYearOnly": (
        "out = by_stock(close).pct_change(5, fill_method=None)\n"
        "late = out.index.get_level_values('datetime') >= pd.Timestamp('2020-01-15')\n"
        "factor = out.where(~late, by_stock(out).shift(-5))"
    ),
    "FreshMergeNextMonth": (
        "monthly = wide.resample('MS').first()\n"
        "monthly.index = monthly.index - pd.offsets.MonthBegin(1)\n"
        "factor = long(monthly.reindex(wide.index, method='ffill') / wide)"
    ),
    "FreshRollingCenterMax": (
        "top = by_stock(close).transform(lambda r: r.rolling(15, center=True, min_periods=1).max())\n"
        "factor = (close == top).astype(float)"
    ),
    "FreshQuantileMap": (
        "edges = np.quantile(volume.dropna(), np.linspace(0, 1, 11))\n"
        "factor = pd.Series(np.digitize(volume, edges).astype(float), volume.index).where(volume.notna())"
    ),
    "FreshMedianOfNeighbours": (
        "v = by_stock(volume)\n"
        "both = pd.concat([v.shift(1), v.shift(-1)], axis=1).mean(axis=1)\n"
        "factor = np.log(volume.fillna(both))"
    ),
    "FreshPairHighest": (
        "corr = wide.pct_change(fill_method=None).corr().to_numpy(copy=True)\n"
        "np.fill_diagonal(corr, -1)\n"
        "partner = wide.columns[np.nanargmax(corr, axis=1)]\n"
        "factor = long(pd.DataFrame(wide.to_numpy() / wide[partner].to_numpy(), wide.index, wide.columns))"
    ),
    "FreshRecordHigh": (
        "final = by_stock(close).transform('max')\nfactor = (close >= 0.999 * final).astype(int)"
    ),
}

HONEST: dict[str, str] = {
    "FreshObv": "factor = by_stock((np.sign(by_stock(close).diff()) * volume).fillna(0)).cumsum()",
    "FreshAtr": (
        "prev = by_stock(close).shift(1)\n"
        "span = pd.concat([data['$high'] - data['$low'], (data['$high'] - prev).abs(), (data['$low'] - prev).abs()],"
        " axis=1).max(axis=1)\n"
        "factor = by_stock(span).transform(lambda r: r.rolling(14).mean()) / close"
    ),
    "FreshAmihud": (
        "ratio = by_stock(close).pct_change(fill_method=None).abs() / (close * volume)\n"
        "factor = np.log(by_stock(ratio).transform(lambda r: r.rolling(20, min_periods=5).mean()))"
    ),
    "FreshResidual": (
        "r = wide.pct_change(fill_method=None)\n"
        "m = r.mean(axis=1)\n"
        "b = r.rolling(20, min_periods=10).cov(m).div(m.rolling(20, min_periods=10).var(), axis=0)\n"
        "factor = long((r - b.mul(m, axis=0)).rolling(10).sum())"
    ),
    "FreshStreak": (
        "def streak(rows):\n"
        "    up = rows.diff() > 0\n"
        "    return up.groupby((~up).cumsum()).cumsum().astype(float)\n"
        "factor = by_stock(close).transform(streak)"
    ),
    "FreshEntropy": (
        "def entropy(v):\n"
        "    p = np.histogram(v, bins=5)[0] / len(v)\n"
        "    p = p[p > 0]\n"
        "    return -(p * np.log(p)).sum()\n"
        "r = by_stock(close).pct_change(fill_method=None)\n"
        "factor = by_stock(r).transform(lambda rows: rows.rolling(20).apply(entropy, raw=True))"
    ),
    "FreshDayOfListing": "factor = np.log1p(by_stock(close).cumcount())",
    "FreshWeeklyReversal": (
        "weekly = wide.resample('W').last().pct_change(fill_method=None)\n"
        "out = -weekly.shift(1).reindex(wide.index, method='ffill')\n"
        "factor = long(out)"
    ),
    "FreshMinimumOfRows": (
        "parts = []\n"
        "for name, rows in close.groupby(level='instrument'):\n"
        "    if len(rows) < 100:\n"
        "        continue\n"
        "    parts.append(rows / rows.rolling(10, min_periods=1).mean() - 1)\n"
        "factor = pd.concat(parts).sort_index()"
    ),
    "FreshMinimumThenZScore": (
        "parts = [rows.pct_change(5, fill_method=None) for _, rows in close.groupby(level='instrument')"
        " if len(rows) >= 25]\n"
        "out = pd.concat(parts).sort_index()\n"
        "factor = (out - by_day(out).transform('mean')) / by_day(out).transform('std')"
    ),
    "FreshPool": (
        "from multiprocessing import Pool\n"
        "def work(rows):\n"
        "    return rows.rolling(7).std()\n"
        "if __name__ == '__main__':\n"
        "    with Pool(2) as pool:\n"
        "        factor = pd.concat(pool.map(work, [r for _, r in close.groupby(level='instrument')])).sort_index()"
    ),
    "FreshThreads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool:\n"
        "    parts = list(pool.map(lambda r: r.rolling(7).max(), [r for _, r in close.groupby(level='instrument')]))\n"
        "factor = pd.concat(parts) / close"
    ),
    "FreshGaussRank": (
        "from scipy.stats import norm\n"
        "rank = by_day(volume).rank()\n"
        "count = by_day(volume).transform('count')\n"
        "factor = pd.Series(norm.ppf((rank - 0.5) / count), rank.index)"
    ),
    "FreshPcaByDay": (
        "r = wide.pct_change(fill_method=None).fillna(0).to_numpy(float)\n"
        "out = np.full(r.shape, np.nan)\n"
        "for t in range(40, len(r)):\n"
        "    u, s, v = np.linalg.svd(r[t - 40:t], full_matrices=False)\n"
        "    out[t] = r[t] - (r[t] @ v[0]) * v[0]\n"
        "factor = long(pd.DataFrame(out, wide.index, wide.columns))"
    ),
    "FreshExpandingQuantile": (
        "level = by_stock(close).transform(lambda r: r.expanding(20).quantile(0.9))\n"
        "factor = (close > level).astype(int)"
    ),
    "FreshTimeToGap": "factor = close.index.to_series().map(lambda at: at[0].dayofyear).astype(float) * 0 + close",
    "FreshEwmVol": (
        "r = by_stock(np.log(close)).diff()\n"
        "factor = np.sqrt(by_stock(r ** 2).transform(lambda x: x.ewm(alpha=0.06, min_periods=10).mean()))"
    ),
    "FreshSelfJoin": (
        "flat = data.reset_index()[['datetime', 'instrument', '$close']]\n"
        "calendar = pd.Series(wide.index)\n"
        "earlier = dict(zip(calendar, calendar.shift(5)))\n"
        "flat['then'] = flat['datetime'].map(earlier)\n"
        "both = flat.merge(flat[['datetime', 'instrument', '$close']], left_on=['then', 'instrument'],"
        " right_on=['datetime', 'instrument'], suffixes=('', '_then'))\n"
        "factor = both.set_index(['datetime', 'instrument']).eval('`$close` / `$close_then` - 1')"
    ),
    "FreshTopTen": (
        "turnover = (wide * volume.unstack('instrument')).rolling(20, min_periods=5).mean()\n"
        "chosen = turnover.rank(axis=1, ascending=False) <= 10\n"
        "factor = long(wide.pct_change(5, fill_method=None).where(chosen))"
    ),
    "FreshLagged": "factor = by_stock(volume).shift(1).rolling(3).mean()",
}

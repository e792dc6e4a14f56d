"""Which factors are near duplicates: RD-Agent's own function is the measure."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.factor_table.duplicates import DUPLICATE_FROM, MeanCorrelations

INDEX = pd.MultiIndex.from_product(
    [pd.date_range("2020-01-01", periods=12), [f"SH{600000 + each}" for each in range(9)]],
    names=["datetime", "instrument"],
)


def made_factors() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two that are there, and new ones of every kind: alone, near, mirrored, with gaps, constant, without overlap."""
    draw = np.random.default_rng(7)
    base = draw.standard_normal((len(INDEX), 2))
    old = pd.DataFrame(base, index=INDEX, columns=["Old", "Gappy"])
    old.loc[draw.random(len(INDEX)) < 0.4, "Gappy"] = np.nan
    old.iloc[:9, 0] = 3.0
    near = base[:, 0] + 0.02 * draw.standard_normal(len(INDEX))
    new = pd.DataFrame(
        {
            "Alone": draw.standard_normal(len(INDEX)),
            "Near": near,
            "NearScaled": 1e50 * near,
            "Mirrored": -base[:, 0],
            "NearGappy": base[:, 1] + 0.02 * draw.standard_normal(len(INDEX)),
            "Farther": base[:, 0] + 0.5 * draw.standard_normal(len(INDEX)),
            "Constant": np.repeat(np.arange(12.0), 9),
            "Ranked": np.tile(np.arange(9.0), 12),
            "Outlier": np.where(draw.random(len(INDEX)) < 0.1, 1e12, base[:, 1]),
            "Elsewhere": np.where(old["Gappy"].isna(), 1.0, np.nan),
        },
        index=INDEX,
    )
    new.loc[draw.random(len(INDEX)) < 0.2, "Farther"] = np.nan
    return old, new.drop(index=INDEX[20:25])


def our_means(frame: pd.DataFrame, fewest: int = 2) -> np.ndarray:
    """Of every pair, in blocks of five days."""
    wide = frame.reindex(INDEX).to_numpy().reshape(12, 9, -1).transpose(2, 0, 1)
    means = MeanCorrelations(len(frame.columns), fewest)
    for start in range(0, 12, 5):
        means.add(wide[:, start : start + 5])
    return means.means()


@pytest.mark.parametrize("fewest", [2, 5])
def test_means_are_those_of_pandas(fewest: int) -> None:
    """Every pair's mean correlation is that of `DataFrame.corr` by day."""
    frame = pd.concat(made_factors(), axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy on constant days.
        days = np.stack([day.corr(min_periods=fewest).to_numpy() for _, day in frame.groupby("datetime")])
        expected = np.nanmean(days, axis=0)
    np.testing.assert_allclose(our_means(frame, fewest), expected, rtol=0, atol=1e-9)


def test_those_that_rdagent_keeps_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`deduplicate_new_factors` of the installed RD-Agent keeps the same columns, mirrored ones too."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    runner = pytest.importorskip("rdagent.scenarios.qlib.developer.factor_runner")
    old, new = made_factors()
    # In this process: it starts one for each core otherwise, and numpy warns in each.
    monkeypatch.setattr(
        "pandas.core.groupby.DataFrameGroupBy.parallel_apply",
        pd.core.groupby.DataFrameGroupBy.apply,
        raising=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kept = runner.QlibFactorRunner.deduplicate_new_factors(
            runner.QlibFactorRunner.__new__(runner.QlibFactorRunner), old, new
        )
    means = our_means(pd.concat([old, new], axis=1))[:2, 2:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = new.columns[np.nanmax(means, axis=0) < DUPLICATE_FROM]
    assert list(kept.columns) == list(ours)
    assert list(ours) == ["Alone", "Mirrored", "Farther", "Ranked", "Outlier"]

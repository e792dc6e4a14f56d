"""What a bundle's configuration may have Qlib do on further days, and the figures of its report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.days_backtest import Portfolio, back_test, read_portfolio, summarize
from tests.bundle.made import make_bundle
from tests.scoring.made_market import make_market

STRATEGY: dict[str, Any] = {
    "class": "TopkDropoutStrategy",
    "module_path": "qlib.contrib.strategy",
    "kwargs": {"signal": "<PRED>", "topk": 50, "n_drop": 5},
}
BACKTEST: dict[str, Any] = {
    "start_time": "2017-01-01",
    "end_time": "2020-08-01",
    "account": 100000000,
    "benchmark": "SH000300",
    "exchange_kwargs": {"limit_threshold": 0.095, "deal_price": "close", "open_cost": 0.0005},
}


def bundle(strategy: dict[str, Any], backtest: dict[str, Any]) -> Any:
    """A bundle with this configuration."""
    record = {"class": "PortAnaRecord", "kwargs": {"config": {"strategy": strategy, "backtest": backtest}}}
    config = {"record": [{"class": "SignalRecord"}, record]}
    return SimpleNamespace(read=lambda _: json.dumps(config).encode(), folder=Path("bundle"))


def test_strategy_and_costs_are_the_trainings() -> None:
    """Without its scores and its days."""
    found = read_portfolio(bundle(STRATEGY, BACKTEST))
    assert found.strategy["kwargs"] == {"topk": 50, "n_drop": 5}
    assert set(found.backtest) == {"account", "benchmark", "exchange_kwargs"}


@pytest.mark.parametrize(
    ("strategy", "backtest"),
    [
        ({**STRATEGY, "module_path": "evil"}, BACKTEST),
        ({**STRATEGY, "class": "Own"}, BACKTEST),
        (STRATEGY, {**BACKTEST, "exchange_kwargs": {"limit_threshold": ["__import__('os')", "1"]}}),
        (STRATEGY, {**BACKTEST, "exchange_kwargs": {"deal_price": "eval(open('x').read())"}}),
        (
            {**STRATEGY, "kwargs": {"topk": {"class": "X", "module_path": "evil", "kwargs": {"a": []}}}},
            BACKTEST,
        ),
    ],
)
def test_what_could_run_code_is_refused(strategy: dict[str, Any], backtest: dict[str, Any]) -> None:
    """A bundle is a stranger's: Qlib imports the class and evaluates some of its options."""
    with pytest.raises(BundleError) as caught:
        read_portfolio(bundle(strategy, backtest))
    assert caught.value.slug == "backtest-unknown"


def test_figures_are_those_of_qlib() -> None:
    """Held to Qlib's own ``risk_analysis`` and ``calc_ic``."""
    from qlib.contrib.eva.alpha import calc_ic
    from qlib.contrib.evaluate import risk_analysis

    random = np.random.default_rng(1)
    days = pd.bdate_range("2021-01-04", periods=60)
    index = pd.MultiIndex.from_product([days, list("ABCDEFGH")], names=["datetime", "instrument"])
    scores, label = (pd.Series(random.normal(size=len(index)), index=index) for _ in range(2))
    report = pd.DataFrame(random.normal(0, 0.01, (60, 3)), index=days, columns=["return", "bench", "cost"])
    found = summarize(scores, label, report)
    risk = risk_analysis(report["return"] - report["bench"] - report["cost"], freq="1day")["risk"]
    ic, rank_ic = calc_ic(scores, label)
    assert found.annualized_return == pytest.approx(risk["annualized_return"], abs=1e-12)
    assert found.information_ratio == pytest.approx(risk["information_ratio"], abs=1e-12)
    assert found.max_drawdown == pytest.approx(risk["max_drawdown"], abs=1e-12)
    assert found.ic == pytest.approx(ic.mean(), abs=1e-12)
    assert found.rank_icir == pytest.approx(rank_ic.mean() / rank_ic.std(), abs=1e-12)


def test_qlib_trades_by_the_rules_of_the_trainings_region(tmp_path: Path) -> None:
    """China's exchanges take lots of 100 shares: a small account buys less there."""
    made = make_market(tmp_path)
    days = made.market.days[-8:-2]
    index = pd.MultiIndex.from_product([days, made.market.instruments], names=["datetime", "instrument"])
    scores = pd.Series(np.random.default_rng(2).normal(size=len(index)), index=index)
    strategy = {**STRATEGY, "kwargs": {"topk": 5, "n_drop": 1}}
    costs = {"limit_threshold": None, "deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015}
    portfolio = Portfolio(
        strategy, {"account": 20_000, "benchmark": made.market.benchmark, "exchange_kwargs": costs}
    )
    _, meta = open_bundle(make_bundle(tmp_path / "bundle").folder).model

    def costs_in(region: str) -> float:
        of_region = SimpleNamespace(model=(None, meta.model_copy(update={"region": region})))
        _, report = back_test(of_region, portfolio, scores, made.files.qlib_dir, days)  # type: ignore[arg-type]
        return float(report["cost"].sum())

    assert 0 <= costs_in("cn") < costs_in("us")

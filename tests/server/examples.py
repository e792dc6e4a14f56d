"""Runs as the API describes them, made up: of any length, of a model, and as somebody hostile would write them."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.factor_table.metrics import FactorFigures
from rdagent_sota_patch.mlruns.backtest import Backtest
from rdagent_sota_patch.results.curves import sum_up
from rdagent_sota_patch.results.factor_metrics import FactorMetrics, FactorMetricsItem
from rdagent_sota_patch.results.schemas import (
    AssetItem,
    Best,
    FactorItem,
    GivenFactor,
    GivenItem,
    LoopItem,
    LoopList,
    ModelItem,
    Origin,
    ProblemItem,
    SotaFactorAnchor,
    SotaItem,
    TaskItem,
    TaskList,
    TaskManifest,
    TaskSummary,
)
from rdagent_sota_patch.server.rendering import (
    BacktestView,
    ComparedRun,
    compared_run,
    render_run,
    view_backtest,
)

IC = "IC"
RETURN = "1day.excess_return_with_cost.annualized_return"
DRAWDOWN = "1day.excess_return_with_cost.max_drawdown"
WHEN = "2026-03-04T05:06:07.890+00:00"
CODE = '''import pandas as pd


def calculate_gap(days: int = 10) -> None:
    """Mean overnight return."""
    data = pd.read_hdf("daily_pv.h5", key="data")
    previous = data["$close"].groupby("instrument").shift(1)  # the day before
    gap = (data["$open"] / previous - 1).groupby("instrument").rolling(days).mean()
    gap.to_frame("OvernightGap10").to_hdf("result.h5", key="data")


if __name__ == "__main__":
    calculate_gap()
'''
FORMULAS = (
    r"\frac{1}{10}\sum_{i=0}^{9}\left(\frac{open_{t-i}}{close_{t-i-1}}-1\right)",
    r"\mathrm{corr}_{20}\left(\frac{open_t}{close_{t-1}}-1,\ \log volume_t\right)",
    r"\begin{cases} \frac{close_t - \min(low)}{\max(high) - \min(low)} & \text{if } volume_t > 0 \\"
    r" 0 & \text{else} \end{cases}",
    r"\operatorname{rank}(\operatorname{std}_{20}(close_price)) \cdot \sqrt{\hat{\sigma}}",
)
BAD = '<script>alert(1)</script>"><img src=x onerror=alert(2)> {{ 7*7 }} \u202egnihtyna\u202c\x07 </style>'


@dataclass(frozen=True)
class Run:
    """All that `render_run` takes."""

    manifest: TaskManifest
    summary: TaskSummary
    loops: LoopList
    anchor: SotaFactorAnchor
    codes: dict[str, str]
    figures: FactorMetrics | None = None
    no_figures: str | None = None
    backtest: BacktestView | None = None

    @property
    def page(self) -> str:
        return render_run(
            self.manifest,
            self.summary,
            self.loops,
            self.anchor,
            self.codes,
            figures=self.figures,
            no_figures=self.no_figures,
            backtest=self.backtest,
            given_known=True,
        )


def make_factor(number: int, key: str | None = None, *, implemented: bool = True) -> FactorItem:
    return FactorItem(
        name=f"Factor{number}",
        description=f"[Gap Factor] what the market did overnight, version {number}",
        formulation=FORMULAS[number % len(FORMULAS)],
        variables={"open_t": "opening price of day t", "close_t": "closing price of day t"},
        implemented=implemented,
        key=key,
    )


def make_loop(number: int, *, decision: bool | None = True, **changes: Any) -> LoopItem:
    chance = random.Random(number)
    fields: dict[str, Any] = {
        "loop": number,
        "kind": "factor",
        "decision": decision,
        "is_last_sota": False,
        "hypothesis": f"Hypothesis {number}: gaps carry what the day's trading has not yet priced in.",
        "reason": "The annualized return rose and the drawdown did not. " * 3,
        "factors": (make_factor(number),),
        "model": None,
        "metrics": {
            IC: 0.02 + number * 0.0003 + chance.uniform(-0.004, 0.004),
            "ICIR": 0.3,
            "Rank IC": 0.04,
            RETURN: -0.02 + number * 0.002 + chance.uniform(-0.05, 0.05),
            DRAWDOWN: -0.08,
        },
        "sota_factor_count": None,
        "num_features": None,
        "inherited_from": None,
    }
    return LoopItem(**{**fields, **changes})


def make_run(loops: tuple[LoopItem, ...], task_id: str = "2026-03-04_05-06-07-890123") -> Run:
    """A factor run; the last accepted loop is its SOTA, built on the accepted ones before it."""
    accepted = [index for index, loop in enumerate(loops) if loop.decision and loop.kind == "factor"]
    sota, codes = None, {}
    if accepted:
        own = loops[accepted[-1]].model_copy(update={"is_last_sota": True})
        own = own.model_copy(update={"factors": (make_factor(own.loop, "factor.py"),)})
        loops = (*loops[: accepted[-1]], own, *loops[accepted[-1] + 1 :])
        based = tuple(
            make_factor(loops[index].loop, f"based_factor_{place}/factor.py")
            for place, index in enumerate(accepted[:-1])
        )
        factors = (*based, *own.factors)
        codes = {factor.key: CODE for factor in factors if factor.key is not None}
        sota = SotaItem(loop=own.loop, hypothesis=own.hypothesis, metrics=own.metrics, factors=factors)
    manifest = TaskManifest(
        task_id=task_id,
        updated_at_utc=WHEN,
        kind="factor",
        loop_class="FactorRDLoop",
        hist_len=len(loops),
        has_sota=sota is not None,
        chosen_session_file="__session__/2/4_record",
        signature="verified",
        assets=(
            AssetItem(key="model.pkl", role="model_weight", name=None, size=123456, sha256="0" * 64),
            *(
                AssetItem(
                    key=key,
                    role="factor_code",
                    name="Factor",
                    size=len(code),
                    sha256=hashlib.sha256(code.encode()).hexdigest(),
                )
                for key, code in codes.items()
            ),
        ),
        bundle_stages=("factor",) if sota is not None else (),
    )
    summary = TaskSummary(
        task_id=task_id,
        updated_at_utc=WHEN,
        kind="factor",
        hist_len=len(loops),
        accepted=sum(bool(loop.decision) for loop in loops if loop.inherited_from is None),
        rejected=sum(not loop.decision for loop in loops if loop.inherited_from is None),
        inherited=sum(loop.inherited_from is not None for loop in loops),
        best=_find_best(loops),
        sota=sota,
        last_accepted_model=None,
        skipped_snapshots=0,
    )
    return Run(manifest, summary, LoopList(task_id=task_id, loops=loops), make_anchor(task_id, sota), codes)


def make_anchor(task_id: str, sota: SotaItem | None, **changes: Any) -> SotaFactorAnchor:
    none = None if sota is not None else "The run accepted no factor experiment of its own."
    well = sota is not None
    fields: dict[str, Any] = {
        "ok": well,
        "task_id": task_id,
        "chosen_session_file": "__session__/2/4_record",
        "source_session_dir_id": 2,
        "source_session_dir_id_error": None,
        "hist_len": 3,
        "last_sota_factor_index": 2 if well else None,
        "factor_file_dict_keys": ("factor.py", "model.pkl") if well else None,
        "resolved_factor_entry_key": "factor.py" if well else None,
        "based_factor_entries": () if well else None,
        "resolved_model_weight_key": "model.pkl" if well else None,
        "resolved_model_weight_source": "factor_exp" if well else None,
        "resolved_model_weight_sha256": "0" * 64 if well else None,
        "resolved_model_meta_key": "model_meta.json" if well else None,
    }
    errors = {
        name: none for name in SotaFactorAnchor.model_fields if name.endswith("_error") and name not in fields
    }
    return SotaFactorAnchor(**{**fields, **errors, **changes})


def long_run(count: int) -> Run:
    """A run in which every third loop is accepted, and some have no result."""
    run = make_run(
        tuple(
            make_loop(number, decision=number % 3 == 0, **({"metrics": {}} if number % 17 == 5 else {}))
            for number in range(count)
        )
    )
    assert run.summary.sota is not None
    return replace(run, figures=make_figures([factor.name for factor in run.summary.sota.factors]))


def make_figures(names: Sequence[str], *, text: str = "", notices: tuple[str, ...] = ()) -> FactorMetrics:
    """Figures of factors; those over twenty days are missing."""
    found = FactorFigures(
        ic_mean=0.0312, ic_t=4.2, rank_ic_mean=0.0401, rank_ic_t=5.1, rank_icir=0.21, rank_ic_5d=-0.0222,
        rank_ic_10d=0.0101, turnover=0.312, autocorrelation=0.91, coverage=0.985, quantile_spread=0.0011,
        quantile_returns=(-0.0004, -0.0001, 0.0, 0.0003, 0.0007), n_trading_days=700,
    )  # fmt: skip
    missing = {
        name: text or "There are too few days." for name, value in asdict(found).items() if value is None
    }
    items = tuple(
        FactorMetricsItem(
            factor_name=name,
            data_start="2020-01-02",
            data_end="2022-12-30",
            calculated_at=WHEN,
            calc_batch_id="0" * 32,
            missing=missing,
            **asdict(found),
        )
        for name in names
    )
    return FactorMetrics(
        task_id="run",
        loop=2,
        factor_count=len(items),
        metrics_count=len(items),
        parquet_path="/ws/combined_factors_df.parquet",
        return_source=text or "/data/daily_pv.h5",
        return_definition="as documented",
        notices=notices,
        metrics=items,
        factor_reports=(),
        calc_batch_id="0" * 32,
    )


def inheriting_run() -> Run:
    """A run with another run's history before its own, which has loops without verdict and without value."""
    origin = Origin(task_id="2026-01-01_00-00-00-000000", loop=4)
    return make_run(
        (
            make_loop(-2, inherited_from=origin),
            make_loop(-1, decision=False, inherited_from=origin),
            make_loop(0),
            make_loop(
                1, decision=None, metrics={IC: None, RETURN: 0.05}, sota_factor_count=3, num_features=23
            ),
            make_loop(2, decision=False, metrics={IC: 0.021, RETURN: None}),
            make_loop(3),
        )
    )


def model_run() -> Run:
    """A run of models only."""
    model = ModelItem(
        name="GatedTemporalNet",
        model_type="TimeSeries",
        description="A gated recurrent network over twenty days.",
        formulation=r"\hat{y} = w^\top \phi(W x + b) + c",
        architecture="two GRU layers of 32 units, dropout, linear output",
        hyperparameters={"hidden_size": "32", "num_layers": "2", "dropout": "0.1"},
        training_hyperparameters={"n_epochs": "30", "lr": "1e-3", "batch_size": "512"},
    )
    loops = tuple(
        make_loop(number, decision=number != 1, kind="model", factors=(), model=model) for number in range(3)
    )
    run = make_run(loops)
    return replace(
        run,
        manifest=run.manifest.model_copy(
            update={"kind": "model", "assets": (), "bundle_stages": ("model",), "loop_class": "ModelRDLoop"}
        ),
        summary=run.summary.model_copy(
            update={"kind": "model", "last_accepted_model": loops[-1], "given": make_given("2026-01-01")}
        ),
        backtest=view_backtest(2, sum_up(make_backtest())),
    )


def make_given(name: str) -> GivenItem:
    factors = (GivenFactor(name=f"{name} Gap", loop=0), GivenFactor(name="Rev", loop=None))
    return GivenItem(source=name, kind="log", task_id=name, loop=2, factors=factors)


def make_backtest(days: int = 900) -> Backtest:
    """A back-test of some years: a strategy a little better than its benchmark, with a gap in its IC."""
    chance = np.random.default_rng(7)
    index = pd.bdate_range("2018-01-01", periods=days, name="datetime")

    def by_day(values: Any) -> pd.Series[float]:
        return pd.Series(values, index=index, dtype="float64")

    benchmark = chance.normal(0.0002, 0.01, days)
    ic = chance.normal(0.03, 0.1, days)
    ic[10:20] = np.nan
    return Backtest(
        returns=by_day(benchmark + chance.normal(0.0005, 0.004, days)),
        benchmark=by_day(benchmark),
        costs=by_day(np.full(days, 0.0002)),
        turnover=by_day(chance.uniform(0.05, 0.25, days)),
        ic=by_day(ic),
        rank_ic=None,
        missing={"rank_ic": "mlruns has no ric.pkl"},
    )


def make_comparison() -> tuple[ComparedRun, ...]:
    """A run of factors, one of models on another's factors, one that cannot be read."""
    rows = make_listing(3).tasks
    problem = ProblemItem(slug="snapshot-unreadable", message=BAD, hint="Restore it.")
    return (
        compared_run(rows[2], long_run(3).summary),
        compared_run(rows[1], model_run().summary),
        compared_run(rows[0].model_copy(update={"problem": problem, "kind": None}), None),
    )


def hostile_run() -> Run:
    """A run whose every text tries to be more than text."""
    factor = FactorItem(
        name=BAD,
        description=BAD,
        formulation=rf"\text{{{BAD.replace('{', '').replace('}', '')}}} < \frac{{a}}{{b}}",
        variables={BAD: BAD},
        implemented=False,
        key=f"{BAD}.py",
    )
    model = ModelItem(
        name=BAD,
        model_type=BAD,
        description=BAD,
        formulation=BAD,
        architecture=BAD,
        hyperparameters={BAD: BAD},
        training_hyperparameters={BAD: BAD},
    )
    loop = make_loop(
        0,
        is_last_sota=True,
        hypothesis=BAD,
        reason=BAD,
        factors=(factor,),
        model=model,
        metrics={BAD: 1.0, IC: 1e300, RETURN: -1.7e308},
        inherited_from=Origin(task_id=BAD, loop=None),
    )
    other = make_loop(1, decision=False, metrics={IC: -1e300, RETURN: 1.7e308})
    run = make_run((loop, other), task_id=BAD)
    sota = SotaItem(loop=0, hypothesis=BAD, metrics=loop.metrics, factors=(factor,))
    return replace(
        run,
        manifest=run.manifest.model_copy(update={"signature": BAD, "bundle_stages": ("factor", "model")}),
        summary=run.summary.model_copy(
            update={
                "sota": sota,
                "given": make_given(BAD),
                "last_accepted_model": loop,
                "skipped_snapshots": 3,
                "best": (Best(metric=BAD, value=1e300, loop=0),),
            }
        ),
        loops=LoopList(task_id=BAD, loops=(loop, other)),
        anchor=make_anchor(BAD, sota, resolved_model_weight_key=None, resolved_model_weight_key_error=BAD),
        codes={f"{BAD}.py": f"# {BAD}\nprint('</code></pre><script>alert(3)</script>')\n"},
        figures=make_figures([BAD], text=BAD, notices=(BAD,)),
        backtest=BacktestView(0, None, (BAD,)),
    )


def make_listing(count: int, *, total: int | None = None, offset: int = 0) -> TaskList:
    tasks = tuple(
        TaskItem(
            task_id=f"2026-03-{28 - number:02d}_05-06-07-890123",
            updated_at_utc=WHEN,
            kind=("factor", "model", "quant", "other")[number % 4],  # type: ignore[arg-type]
            loops=number,
            has_sota=number % 3 == 0,
            problem=None,
            ended_at_utc=WHEN,
            accepted=number // 2,
            best=(Best(metric=IC, value=0.02 + number / 1000, loop=0),) if number else (),
            sota_loop=number if number % 3 == 0 else None,
            sota_factors=3 if number % 3 == 0 else None,
            given_from=BAD if number == 1 else None,
            given_factors=2 if number == 1 else None,
        )
        for number in range(count)
    )
    return TaskList(tasks=tasks, total=count if total is None else total, limit=20, offset=offset)


def _find_best(loops: tuple[LoopItem, ...]) -> tuple[Best, ...]:
    found = []
    for metric in (IC, "ICIR", "Rank IC", RETURN, DRAWDOWN):
        values = [
            (value, loop.loop)
            for loop in loops
            if loop.decision and (value := loop.metrics.get(metric)) is not None and math.isfinite(value)
        ]
        if values:
            value, number = max(values)
            found.append(Best(metric=metric, value=value, loop=number))
    return tuple(found)

"""What a trial of an ablation costs against a ``qrun`` of the same model, and what two processes gain.

Thirty mined factors and the label, on a synthetic market of 300 stocks; RD-Agent's own LightGBM, processors and
back-test. The ablation leaves one factor out at a time over eight windows. Its figures hold everything, from reading
the table to the verdicts, divided by the number of models: with one seed, which is the least favourable to it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.memory import peak
from tests.benchmarks.processes import run_child

MODULE = "ablating"
STOCKS, FACTORS, WINDOWS = 300, 30, 8
_ROUNDS = 2
_TABLE = "combined_factors_df.parquet"
_LABEL = [["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]]
_BOOSTING = {
    "loss": "mse", "colsample_bytree": 0.8879, "learning_rate": 0.2, "subsample": 0.8789, "lambda_l1": 205.6999,
    "lambda_l2": 580.9768, "max_depth": 8, "num_leaves": 210, "num_threads": 20,
}  # fmt: skip
"""RD-Agent's (``factor_template/conf_combined_factors.yaml``)."""


def measure(folder: Path) -> list[Comparison]:
    """Measure in ``folder``, which needs 500 MB."""
    place = folder / "ablating"
    place.mkdir()
    run_child(MODULE, ["make", place], place)
    commands = {"qrun": ["qrun", place], "one": ["ablate", place, "1"], "two": ["ablate", place, "2"]}
    runs = [
        {name: run_child(MODULE, given, place) for name, given in commands.items()} for _ in range(_ROUNDS)
    ]
    trials = runs[0]["one"]["trials"]

    def ratio(what: str, unit: str, figure: str, ours: str, theirs: str, most: float) -> Comparison:
        measured, reference = ([run[name][figure] for run in runs] for name in (ours, theirs))
        return compare(what, unit, measured, reference, Limit(Bound.RATIO, most))

    cpu = f"processor time of one of {trials} trials / of a qrun of the same model"
    peak_of = "peak memory of a process that ablates / of that qrun"
    wall = "trials in two processes / in one, on the clock"
    return [
        ratio(cpu, "s", "cpu of a model", "one", "qrun", 0.1),
        ratio(peak_of, "MB", "peak", "one", "qrun", 1.5),
        ratio(wall, "s", "wall", "two", "one", 1 / 1.8),
    ]


def _make(place: Path) -> None:
    import numpy as np
    import pandas as pd
    import yaml

    from rdagent_sota_patch.demo.synthetic_market import (
        MarketSpec,
        Segments,
        simulate_market,
        write_qlib_data,
    )

    market = simulate_market(MarketSpec(stocks=STOCKS))
    write_qlib_data(market, place / "qlib")
    index = market.frame().index
    names = pd.MultiIndex.from_product([["feature"], [f"Mined{number:02}" for number in range(FACTORS)]])
    values = np.random.default_rng(0).standard_normal((len(index), FACTORS))
    pd.DataFrame(values, index=index, columns=names).to_parquet(place / _TABLE)
    config = _config(place / "qlib", Segments(), market.benchmark)
    (place / "conf.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    print(json.dumps(True))


def _config(provider: Path, segments: Any, benchmark: str) -> dict[str, Any]:
    """As RD-Agent's template: mined factors beside the label, two processors each, three records."""
    start, end = segments.train[0], segments.test[1]
    fit = {"fit_start_time": start, "fit_end_time": segments.train[1]}
    label = {"class": "qlib.data.dataset.loader.QlibDataLoader", "kwargs": {"config": {"label": _LABEL}}}
    table = {"class": "qlib.data.dataset.loader.StaticDataLoader", "kwargs": {"config": _TABLE}}
    handler = {
        "start_time": start,
        "end_time": end,
        "instruments": "csi300",
        "data_loader": {"class": "NestedDataLoader", "kwargs": {"dataloader_l": [label, table]}},
        "infer_processors": [
            {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", "clip_outlier": True, **fit}},
            {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
        ],
        "learn_processors": [
            {"class": "DropnaLabel"},
            {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}},
        ],
    }
    strategy = {"signal": "<PRED>", "topk": 50, "n_drop": 5}
    costs = {"limit_threshold": 0.095, "deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015}
    back_test = {
        "strategy": {
            "class": "TopkDropoutStrategy",
            "module_path": "qlib.contrib.strategy",
            "kwargs": strategy,
        },
        "backtest": {
            "start_time": segments.test[0],
            "end_time": end,
            "account": 100000000,
            "benchmark": benchmark,
            "exchange_kwargs": {**costs, "min_cost": 5},
        },
    }
    parts = ("train", "valid", "test")
    dataset = {
        "handler": {
            "class": "DataHandlerLP",
            "module_path": "qlib.contrib.data.handler",
            "kwargs": handler,
        },
        "segments": {name: list(getattr(segments, name)) for name in parts},
    }
    records = {
        "SignalRecord": {"dataset": "<DATASET>", "model": "<MODEL>"},
        "SigAnaRecord": {"ana_long_short": False, "ann_scaler": 252},
        "PortAnaRecord": {"config": back_test},
    }
    return {
        "qlib_init": {"provider_uri": str(provider), "region": "cn"},
        "task": {
            "model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": _BOOSTING},
            "dataset": {"class": "DatasetH", "module_path": "qlib.data.dataset", "kwargs": dataset},
            "record": [
                {"class": name, "module_path": "qlib.workflow.record_temp", "kwargs": kwargs}
                for name, kwargs in records.items()
            ],
        },
    }


def _qrun(place: Path) -> None:
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from qlib.cli.run import workflow

    start = time.perf_counter()
    workflow(str(place / "conf.yaml"))
    _print(start, 1)


def _ablate(place: Path, jobs: str) -> None:
    import tempfile

    from rdagent_sota_patch.ablation.ablating import AblateOptions, ablate
    from rdagent_sota_patch.ablation.recipe import read_recipe
    from rdagent_sota_patch.ablation.subject import load_subject

    subject = _subject(place)
    options = AblateOptions(1, WINDOWS, one_by_one=False, smallest=False, jobs=int(jobs))
    with tempfile.TemporaryDirectory(dir=place) as name:
        folder = Path(name)
        arrays = load_subject(subject, folder, 1, lambda *_: None)
        start = time.perf_counter()
        found = ablate(
            arrays,
            subject.mined,
            read_recipe(subject.meta),
            folder,
            options=options,
            report=lambda *_: None,
        )
    _print(start, found.trials)


def _subject(place: Path) -> Any:
    """What `subject_of_log` gives of a run with this workspace."""
    from rdagent_sota_patch.ablation.subject import Subject
    from rdagent_sota_patch.bundle.documents import FactorOrder
    from rdagent_sota_patch.export.description import describe_model
    from rdagent_sota_patch.factor_table.table import read_factor_table
    from rdagent_sota_patch.mlruns.recorder import find_recorder
    from rdagent_sota_patch.mlruns.trained import read_trained

    trained = read_trained(find_recorder(place), whole=False)
    order = FactorOrder(
        version="v1",
        task_run_id="run",
        loop_id=0,
        generated_at_utc="",
        source_file=_TABLE,
        factor_order=trained.columns,
        alpha_count=0,
        alpha158_count=0,
        dynamic_factor_count=FACTORS,
        dynamic_factor_order=trained.mined,
    )
    table = read_factor_table(place / _TABLE)
    return Subject("run", 0, "", describe_model(trained, has_code=False), order, table, (), place / "qlib")


def _print(start: float, trials: int) -> None:
    wall = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(each.ru_utime + each.ru_stime for each in used)
    print(json.dumps({"cpu of a model": cpu / trials, "wall": wall, "peak": peak(), "trials": trials}))


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    {"make": _make, "qrun": _qrun, "ablate": _ablate}[what](Path(arguments[0]), *arguments[1:])

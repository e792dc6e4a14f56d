"""Workspaces in which Qlib itself trained a small model, with data loaders of the tests' own.

Run as a program, so that Qlib stays out of the tests' process. What Qlib does here is what its ``qrun`` does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from rdagent_sota_patch.demo.synthetic_market import Market, MarketSpec, simulate_market, write_qlib_data

ALPHA = {"ROC5": "Ref($close, 5)/$close", "KLEN": "($high-$low)/$open", "BODY": "$close/$open"}
"""Not sorted, as RD-Agent's own are not."""

DAYS = {"ZMom": 3, "GapA": 1}
"""Mined factors by the days of their return, as ``tests.bundle.made.FACTOR_CODE`` has them; not sorted."""

SHARED = "KLEN"
"""A mined factor that some tables have, of an Alpha feature's name."""

SEGMENTS = {
    "train": ["2020-09-01", "2020-10-30"],
    "valid": ["2020-11-02", "2020-11-13"],
    "test": ["2020-11-16", "2020-12-11"],
}
SPEC = MarketSpec(stocks=52, start=date(2020, 8, 3), end=date(2020, 12, 31), spelling="000001.SZ")
MEMBERS = 40
"""Stocks of the market that models are trained on; the table has all of them, and lacks some rows."""

TABLE = "combined_factors_df.parquet"
LABEL = [["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]]
EXPRESSIONS = {"label": LABEL, "feature": [list(ALPHA.values()), list(ALPHA)]}
_MODULE = "tests.export.own_loaders"

NETWORK = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(num_features, 5), nn.SiLU(), nn.Linear(5, 1))

    def forward(self, x):
        return self.layers(x)


model_cls = Net
"""


def one_loader(name: str = "OneLoader", **kwargs: Any) -> dict[str, Any]:
    """A loader that is told expressions, table and join."""
    told = {"alpha_config": EXPRESSIONS, "table_path": TABLE, **kwargs}
    return {"class": name, "module_path": _MODULE, "kwargs": told}


def silent_loader(name: str) -> dict[str, Any]:
    """A loader that is told the expressions alone."""
    return {"class": name, "module_path": _MODULE, "kwargs": {"expressions": EXPRESSIONS}}


def nested(*loaders: dict[str, Any], join: str = "left") -> dict[str, Any]:
    """Qlib's own nested loader."""
    return {"class": "NestedDataLoader", "kwargs": {"dataloader_l": list(loaders), "join": join}}


QLIB_ALPHA = {"class": "qlib.contrib.data.loader.Alpha158DL", "kwargs": {"config": EXPRESSIONS}}
QLIB_TABLE = {"class": "qlib.data.dataset.loader.StaticDataLoader", "kwargs": {"config": TABLE}}


@dataclass(frozen=True)
class Workspace:
    """A training to be made.

    Attributes:
        loader: Of its task.
        shared: Whether its table has a factor of an Alpha feature's name.
        model: ``lightgbm``, ``blind`` (one that never splits) or ``torch``.
        fits: Whether the templates' processors are fitted on its features.
        label: Whether the table has the label as well.
        alike: Whether the table has exactly the rows that Qlib gives.
        across: Whether the processors look across a day's stocks.
    """

    loader: dict[str, Any]
    shared: bool = False
    model: str = "lightgbm"
    fits: bool = False
    label: bool = False
    alike: bool = False
    across: bool = False


WORKSPACES = {
    "left": Workspace(one_loader(join="left")),
    "outer": Workspace(one_loader(join="outer")),
    "fitted": Workspace(one_loader(join="left"), fits=True),
    "keeps_first": Workspace(one_loader("KeepsFirst"), shared=True),
    "keeps_last": Workspace(one_loader("KeepsLast"), shared=True),
    "replaces": Workspace(one_loader("Replaces"), shared=True),
    "keeps_both": Workspace(one_loader("KeepsBoth"), shared=True),
    "table_first": Workspace(silent_loader("TableFirst")),
    "sorted": Workspace(silent_loader("Sorted")),
    "network": Workspace(one_loader(join="left"), model="torch", fits=True),
    "blind": Workspace(one_loader(join="left"), model="blind"),
    "shifts": Workspace(one_loader("Shifts")),
    "slips_once": Workspace(one_loader("SlipsOnce")),
    "alike": Workspace(silent_loader("Sorted"), alike=True),
    "alike_across": Workspace(silent_loader("Sorted"), alike=True, across=True),
    "fails": Workspace(one_loader("Fails")),
    "nested_outer": Workspace(nested(QLIB_ALPHA, QLIB_TABLE, join="outer")),
    "nested_table_first": Workspace(nested(QLIB_TABLE, QLIB_ALPHA), shared=True),
    "alpha_alone": Workspace(QLIB_ALPHA),
    "table_alone": Workspace(QLIB_TABLE, label=True),
}


def make_workspaces(folder: Path) -> Market:
    """Write the market and train in ``folder/<name>``, for each of `WORKSPACES`."""
    market = simulate_market(SPEC)
    write_qlib_data(market, folder / "qlib")
    members = folder / "qlib" / "instruments" / "csi300.txt"
    members.write_text("".join(members.read_text().splitlines(keepends=True)[:MEMBERS]))
    traded(market).to_hdf(folder / "daily_pv.h5", key="data")
    for name, wanted in WORKSPACES.items():
        (folder / name).mkdir()
        make_table(market, wanted).to_parquet(folder / name / TABLE)
        config = yaml.safe_dump(_config(folder / "qlib", wanted), sort_keys=False)
        (folder / name / "conf.yaml").write_text(config)
        (folder / name / "model.py").write_text(NETWORK)
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(folder), *WORKSPACES],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return market


def traded(market: Market) -> pd.DataFrame:
    """The market as factor code reads it: three stocks lack some days that Qlib's data have."""
    frame = market.frame().sort_index()
    days = frame.index.get_level_values("datetime")
    lacking = frame.index.get_level_values("instrument").isin(market.instruments[:3])
    return frame[~(lacking & (days >= "2020-11-25") & (days < "2020-12-02"))]


def make_table(market: Market, wanted: Workspace) -> pd.DataFrame:
    """The factor table: every stock of the market's data, also those that are not in the model's market."""
    frame = market.frame().sort_index() if wanted.alike else traded(market)
    if wanted.alike:
        frame = frame[frame.index.get_level_values("instrument").isin(market.instruments[:MEMBERS])]
    close = frame["$close"].groupby(level="instrument")
    factors = {
        name: (frame["$close"] / close.shift(days) - 1).astype(np.float64) for name, days in DAYS.items()
    }
    if wanted.shared:
        factors[SHARED] = (frame["$high"] / frame["$low"]).astype(np.float64)
    groups = {("feature", name): values for name, values in factors.items()}
    if wanted.label:
        groups["label", "LABEL0"] = (close.shift(-2) / close.shift(-1) - 1).astype(np.float64)
    return pd.DataFrame(groups).dropna(subset=[("feature", "GapA")])


def _config(qlib_dir: Path, wanted: Workspace) -> dict[str, Any]:
    handler: dict[str, Any] = {
        "start_time": date(2020, 8, 10),
        "end_time": date(2020, 12, 18),
        "instruments": None if wanted.label else "csi300",
        "data_loader": wanted.loader,
        "learn_processors": [{"class": "DropnaLabel"}],
    }
    if wanted.fits:
        fit = {"fit_start_time": date(2020, 9, 1), "fit_end_time": date(2020, 10, 30)}
        handler["infer_processors"] = [
            {"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature", **fit}},
            {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
        ]
    if wanted.across:
        handler["infer_processors"] = [{"class": "CSZScoreNorm", "kwargs": {"fields_group": "feature"}}]
    record = {
        "class": "SignalRecord",
        "module_path": "qlib.workflow.record_temp",
        "kwargs": {"dataset": "<DATASET>", "model": "<MODEL>"},
    }
    dataset = {
        "class": "DatasetH",
        "module_path": "qlib.data.dataset",
        "kwargs": {
            "handler": {
                "class": "DataHandlerLP",
                "module_path": "qlib.contrib.data.handler",
                "kwargs": handler,
            },
            "segments": SEGMENTS,
        },
    }
    return {
        "qlib_init": {"provider_uri": str(qlib_dir), "region": "cn", "kernels": 1},
        "task": {"model": _model(wanted.model), "dataset": dataset, "record": [record]},
    }


def _model(kind: str) -> dict[str, Any]:
    if kind == "torch":
        kwargs = {
            "n_epochs": 1,
            "batch_size": 256,
            "GPU": -1,
            "n_jobs": 0,
            "loss": "mse",
            "metric": "loss",
            "pt_model_uri": "model.model_cls",
            "pt_model_kwargs": {"num_features": len(ALPHA) + len(DAYS)},
        }
        return {
            "class": "GeneralPTNN",
            "module_path": "qlib.contrib.model.pytorch_general_nn",
            "kwargs": kwargs,
        }
    blind = {"min_data_in_leaf": 1_000_000} if kind == "blind" else {}
    return {
        "class": "LGBModel",
        "module_path": "qlib.contrib.model.gbdt",
        "kwargs": {
            "loss": "mse",
            "learning_rate": 0.1,
            "num_leaves": 15,
            "num_boost_round": 20,
            "num_threads": 1,
            "seed": 3,
            "deterministic": True,
            "verbosity": -1,
            **blind,
        },
    }


def _train_all(folder: Path, names: list[str]) -> None:
    from qlib.cli.run import workflow

    for name in names:
        os.chdir(folder / name)
        sys.modules.pop("model", None)
        sys.path.insert(0, str(folder / name))
        # Of a training that fails RD-Agent sees no more than that its result is missing.
        expected = (ValueError,) if name == "fails" else ()
        with suppress(*expected):
            workflow("conf.yaml")
        sys.path.remove(str(folder / name))
        shutil.rmtree(folder / name / "__pycache__", ignore_errors=True)


if __name__ == "__main__":
    _train_all(Path(sys.argv[1]), sys.argv[2:])

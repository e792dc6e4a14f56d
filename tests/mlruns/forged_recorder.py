"""The recorder that a back-test leaves in a workspace, forged in milliseconds: its pickles name Qlib's classes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_patch.factor_table.schema import read_names
from tests.export.made_run import LABEL, SEGMENTS, forge
from tests.sessions.forged import Made

TABLE = "combined_factors_df.parquet"
_LOADERS = "qlib.data.dataset.loader"


def write_recorder(workspace: Path, alpha: Mapping[str, str], *, features: int | None = None) -> Path:
    """Write the recorder of a training on Alpha features and the workspace's table, if it has one.

    Args:
        workspace: The experiment's.
        alpha: Name to Qlib expression.
        features: How many the weights are for, where that is another number.

    Returns:
        The run's folder.
    """
    # Two that ended in one millisecond could not be told apart.
    time.sleep(0.002)
    mined = read_names(workspace / TABLE) if (workspace / TABLE).is_file() else ()
    count = len({*alpha, *mined}) if features is None else features
    run = workspace / "mlruns" / "1" / uuid.uuid4().hex
    (run / "artifacts").mkdir(parents=True)
    record = {
        "run_id": run.name,
        "experiment_id": "'1'",
        "status": 3,
        "end_time": time.time_ns() // 1_000_000,
        "lifecycle_stage": "active",
    }
    (run / "meta.yaml").write_text("".join(f"{key}: {value}\n" for key, value in record.items()))
    text = f"tree\nversion=v4\nnum_tree_per_iteration=1\nmax_feature_idx={count - 1}\n\nTree=0\n"
    booster = Made("lightgbm.basic", "Booster", state={"_handle": text, "best_iteration": 0})
    model = Made("qlib.contrib.model.gbdt", "LGBModel", state={"model": booster})
    for name, value in (("params.pkl", model), ("dataset", _dataset(alpha, mined)), ("task", _task(mined))):
        (run / "artifacts" / name).write_bytes(forge(value))
    return run


def alpha_of(workspace: Path) -> dict[str, str]:
    """The Alpha features that the plugin says an experiment is trained on."""
    alpha: dict[str, str] = json.loads((workspace / "sota_source.json").read_text())["alpha_factors"]
    return alpha


def _dataset(alpha: Mapping[str, str], mined: tuple[str, ...]) -> Made:
    groups = {"label": LABEL, **({"feature": [list(alpha.values()), list(alpha)]} if alpha else {})}
    options = {
        "is_group": True,
        "filter_pipe": None,
        "swap_level": True,
        "freq": "day",
        "inst_processors": {},
        "fields": groups,
    }
    loaders = [Made(_LOADERS, "QlibDataLoader", state=options)]
    if mined:
        loaders.append(Made(_LOADERS, "StaticDataLoader", state={"join": "outer"}))
    handler = {
        "instruments": "csi300",
        "data_loader": Made(_LOADERS, "NestedDataLoader", state={"data_loader_l": loaders, "join": "left"}),
        "infer_processors": [],
        "shared_processors": [],
    }
    made = Made("qlib.contrib.data.handler", "DataHandlerLP", state=handler)
    return Made("qlib.data.dataset", "DatasetH", state={"handler": made})


def _task(mined: tuple[str, ...]) -> dict[str, Any]:
    table = {"class": "qlib.data.dataset.loader.StaticDataLoader", "kwargs": {"config": TABLE}}
    loaders: list[Any] = [{"class": "QlibDataLoader"}, *([table] if mined else [])]
    kwargs = {"data_loader": {"class": "NestedDataLoader", "kwargs": {"dataloader_l": loaders}}}
    return {
        "model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt"},
        "dataset": {
            "class": "DatasetH",
            "kwargs": {"handler": {"class": "DataHandlerLP", "kwargs": kwargs}, "segments": SEGMENTS},
        },
    }


def write_backtest(run: Path, report: pd.DataFrame, ic: pd.Series[float], rank_ic: pd.Series[float]) -> None:
    """Add what Qlib's analysis of a back-test leaves: `PortAnaRecord`'s report, and `SigAnaRecord`'s ICs."""
    for name, value in (
        ("portfolio_analysis/report_normal_1day.pkl", report),
        ("sig_analysis/ic.pkl", ic),
        ("sig_analysis/ric.pkl", rank_ic),
    ):
        path = run / "artifacts" / name
        path.parent.mkdir(exist_ok=True)
        value.to_pickle(path)

"""Workspaces with recorders as Qlib leaves them: real Qlib, LightGBM and torch objects, pickled by Qlib's own code.

Run as a program, so that Qlib's imports and the module ``model`` stay out of the tests' process. Beside each recorder
stands ``expected.npz`` with samples and the model's own predictions, and what the tests hold the reader against.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ALPHA = {"KLEN": "($high-$low)/$open", "ROC5": "Ref($close, 5)/$close", "Shared": "$close/$open"}
MINED = ("ZMom", "GapA", "Shared")
"""As the table has them; one bears an Alpha feature's name."""

COLUMNS = ("GapA", "KLEN", "ROC5", "Shared", "ZMom")
FILTERED = ("ROC5", "KLEN")
"""Of all the Alpha features, in the loader's order, for a model of RD-Agent 0.8.0."""
STEP_LEN = 4
EXPERIMENT = "414464491694902396"
RUN = "0892e906b3dc4ff19a770b1e25d4edd7"

NETWORK = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        torch.manual_seed(7)
        self.recurrent = nn.GRU(num_features, 6, batch_first=True) if num_timesteps else None
        self.first = nn.Linear(6 if num_timesteps else num_features, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 1)
        self.register_buffer("passing", torch.zeros(3), persistent=False)
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())

    def forward(self, x):
        if self.recurrent is not None:
            x = self.recurrent(x)[0][:, -1, :]
        return self.head(torch.tanh(self.norm(self.first(x))))


model_cls = Net
"""


def make_runs(folder: Path) -> None:
    """Make the workspaces ``boosted``, ``filtered``, ``tabular`` and ``time_series`` in ``folder``."""
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def write_meta(run: Path, **changed: object) -> None:
    """MLflow's record of a run."""
    record = {
        "artifact_uri": f"file://{run}/artifacts",
        "end_time": 1795247850796,
        "entry_point_name": "''",
        "experiment_id": f"'{run.parent.name}'",
        "lifecycle_stage": "active",
        "run_id": run.name,
        "run_name": "mlflow_recorder",
        "status": 3,
        "tags": "[]",
        **changed,
    }
    run.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{key}: {value}\n" for key, value in record.items())
    (run / "meta.yaml").write_text(text, encoding="utf-8")


def _make_all(folder: Path) -> None:
    (folder / "model.py").write_text(NETWORK, encoding="utf-8")
    sys.path.insert(0, str(folder))
    for name, model in {
        "boosted": _boosted(len(COLUMNS)),
        "filtered": _boosted(len(FILTERED)),
        "tabular": _network(num_features=len(COLUMNS)),
        "time_series": _network(num_features=len(COLUMNS), num_timesteps=STEP_LEN),
    }.items():
        _make_run(folder / name, name, model)


def _boosted(columns: int) -> Any:
    import lightgbm
    import numpy as np
    from qlib.contrib.model.gbdt import LGBModel

    made = LGBModel(loss="mse", learning_rate=0.2, num_leaves=7)
    random = np.random.default_rng(5)
    samples = random.normal(size=(400, columns))
    target = samples[:, 0] - 0.5 * samples[:, -1] + random.normal(size=400)
    train = lightgbm.Dataset(samples, label=target)
    made.model = lightgbm.train({**made.params, "verbosity": -1}, train, num_boost_round=12)
    return made


def _network(**kwargs: int) -> Any:
    from qlib.contrib.model.pytorch_general_nn import GeneralPTNN

    made = GeneralPTNN(GPU=-1, batch_size=64, pt_model_uri="model.model_cls", pt_model_kwargs=kwargs)
    made.dnn_model.eval()
    made.fitted = True
    return made


def _make_run(workspace: Path, name: str, model: Any) -> None:
    import numpy as np
    import pandas as pd

    workspace.mkdir()
    run = workspace / "mlruns" / EXPERIMENT / RUN
    write_meta(run)
    (workspace / "mlruns" / "0").mkdir()
    artifacts = run / "artifacts"
    artifacts.mkdir()
    dataset, task = _dataset(name)
    model.to_pickle(artifacts / "params.pkl")
    dataset.to_pickle(artifacts / "dataset")
    days = pd.date_range("2024-01-02", periods=6, name="datetime")
    index = pd.MultiIndex.from_product([days, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
    scores = np.linspace(-1, 1, len(index), dtype=np.float32)
    pd.DataFrame({"score": scores}, index=index).to_pickle(artifacts / "pred.pkl")
    task["model"] = {"class": type(model).__name__, "module_path": type(model).__module__, "kwargs": {}}
    if name in ("tabular", "time_series"):
        task["model"]["kwargs"] = {
            "pt_model_uri": "model.model_cls",
            "pt_model_kwargs": model.pt_model_kwargs,
        }
    pd.to_pickle(task, artifacts / "task")
    if name != "filtered":
        columns = pd.MultiIndex.from_product([["feature"], MINED])
        pd.DataFrame(0.5, index=index, columns=columns).to_parquet(workspace / "combined_factors_df.parquet")
    np.savez(workspace / "expected.npz", **_expected(model, dataset))


def _expected(model: Any, dataset: Any) -> dict[str, Any]:
    import numpy as np

    expected: dict[str, Any] = {}
    for processor in dataset.handler.infer_processors:
        for key in ("mean_train", "std_train", "min_val", "max_val"):
            if hasattr(processor, key):
                expected[key] = getattr(processor, key)
    if hasattr(model, "model"):
        samples = np.random.default_rng(6).normal(size=(50, model.model.num_feature()))
        importance = {kind: model.model.feature_importance(kind) for kind in ("gain", "split")}
        return {**expected, "samples": samples, "scores": model.model.predict(samples), **importance}
    state = model.dnn_model.state_dict()
    return {
        **expected,
        "names": list(state),
        **{f"tensor {key}": value.numpy() for key, value in state.items()},
    }


def _dataset(name: str) -> tuple[Any, dict[str, Any]]:
    """A dataset that has fitted its processors, without its data, as Qlib pickles one; and its task."""
    import numpy as np
    import pandas as pd
    from qlib.contrib.data.handler import DataHandlerLP
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data.dataset import DatasetH, TSDatasetH
    from qlib.data.dataset import processor as rules
    from qlib.data.dataset.loader import NestedDataLoader, QlibDataLoader

    config = {
        "feature": [list(ALPHA.values()), list(ALPHA)],
        "label": [["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]],
    }
    table = {
        "class": "qlib.data.dataset.loader.StaticDataLoader",
        "kwargs": {"config": "combined_factors_df.parquet"},
    }
    handler = DataHandlerLP.__new__(DataHandlerLP)
    handler.instruments, handler.shared_processors, handler.learn_processors = "csi300", [], []
    kwargs: dict[str, Any] = {"instruments": "csi300", "start_time": dt.date(2020, 1, 1), "end_time": None}
    fit = {
        "fit_start_time": dt.date(2024, 1, 1),
        "fit_end_time": dt.date(2024, 1, 31),
        "fields_group": "feature",
    }
    if name == "filtered":
        handler.data_loader = QlibDataLoader({**config, "feature": [[*ALPHA.values()][::-1], [*ALPHA][::-1]]})
        features = [*ALPHA][::-1]
        choose = rules.FilterCol(fields_group="feature", col_list=["KLEN", "ROC5"])
        handler.infer_processors = [choose, rules.ZScoreNorm(**fit), rules.CSZScoreNorm("feature")]
    else:
        kwargs["data_loader"] = {
            "class": "NestedDataLoader",
            "kwargs": {"dataloader_l": [{"class": "qlib.contrib.data.loader.Alpha158DL"}, table]},
        }
        loader = NestedDataLoader([Alpha158DL(config=config)])
        static = table["kwargs"]["config"]
        from qlib.data.dataset.loader import StaticDataLoader

        loader.data_loader_l.append(StaticDataLoader(static))
        handler.data_loader = loader
        features = list(COLUMNS)
        handler.infer_processors = [rules.RobustZScoreNorm(**fit), rules.Fillna(fields_group="feature")]
        if name == "boosted":
            handler.infer_processors = []
        if name == "time_series":
            handler.infer_processors.insert(0, rules.MinMaxNorm(**fit))
    days = pd.date_range("2024-01-02", periods=9, name="datetime")
    index = pd.MultiIndex.from_product([days, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
    columns = pd.MultiIndex.from_tuples(
        [*(("feature", feature) for feature in features), ("label", "LABEL0")]
    )
    values = np.random.default_rng(8).normal(size=(len(index), len(columns)))
    frame = pd.DataFrame(values, index=index, columns=columns)
    for processor in handler.infer_processors:
        processor.fit(frame)
        frame = processor(frame)
    dataset = (TSDatasetH if name == "time_series" else DatasetH).__new__(
        TSDatasetH if name == "time_series" else DatasetH
    )
    dataset.handler = handler
    options: dict[str, Any] = {
        "segments": {
            "train": [dt.date(2020, 1, 1), dt.date(2021, 12, 31)],
            "valid": [dt.date(2022, 1, 1), dt.date(2022, 12, 31)],
            "test": [dt.date(2023, 1, 1), None],
        }
    }
    if name == "time_series":
        dataset.step_len, dataset.flt_col = STEP_LEN, None
        options["step_len"] = STEP_LEN
    described = {"class": type(dataset).__name__, "module_path": "qlib.data.dataset"}
    described_handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": kwargs,
    }
    return dataset, {"dataset": {**described, "kwargs": {"handler": described_handler, **options}}}


if __name__ == "__main__":
    _make_all(Path(sys.argv[1]))

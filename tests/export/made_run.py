"""A finished run to export: its session, and a workspace with a forged recorder around a real LightGBM booster.

The pickles name Qlib's classes, which need not be there: all of it takes milliseconds.
"""

from __future__ import annotations

import datetime as dt
import io
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.sessions.records import (
    ExperimentKind,
    ExperimentRecord,
    Factor,
    Model,
    Session,
    Signature,
)
from tests.bundle.made import FACTOR_CODE, FACTOR_DAYS, INSTRUMENTS, train_booster
from tests.sessions.forged import Made

TABLE = ("ZMom", "GapA", "Extra")
"""As the factor table has them."""

ORDER = ("Extra", "GapA", "ZMom")
"""As Qlib sorted them."""

EXPERIMENT, RUN = "414464491694902396", "0892e906b3dc4ff19a770b1e25d4edd7"
LABEL = [["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]]
SEGMENTS = {
    "train": ["2020-01-01", "2020-06-30"],
    "valid": ["2020-07-01", "2020-09-30"],
    "test": ["2020-10-05", "2020-10-16"],
}
DAYS = pd.bdate_range("2020-10-05", "2020-10-16", name="datetime")


@dataclass(frozen=True)
class MadeRun:
    """A run of three factor loops: accepted, rejected, accepted with two factors, one of them not implemented.

    Attributes:
        workspace: Of the last loop.
        predictions: The back-test's; column score.
    """

    session: Session
    workspace: Path
    predictions: pd.DataFrame


def make_run(project: Path) -> MadeRun:
    """Write the run's workspace below ``project``."""
    workspace = project / "git_ignore_folder" / "RD-Agent_workspace" / "5a5ecb0e174e72a8e5f029f20bca9100"
    workspace.mkdir(parents=True)
    predictions = write_workspace(workspace)
    log = project / "log" / "mined"
    first = factor_experiment(0, ("ZMom",))
    last = replace(factor_experiment(2, ("GapA", "Extra", "Broken"), based_on=(first,)), workspace=workspace)
    session = Session(
        log=log,
        snapshot=log / "__session__" / "2" / "4_record",
        signature=Signature.VERIFIED,
        loop_class="FactorRDLoop",
        experiments=(first, replace(factor_experiment(1, ("Rejected",)), decision=False), last),
    )
    return MadeRun(session, workspace, predictions)


def factor_experiment(
    loop: int, names: tuple[str, ...], based_on: tuple[ExperimentRecord, ...] = ()
) -> ExperimentRecord:
    """An accepted factor experiment; a factor named ``Broken`` was not implemented."""
    factors = tuple(
        Factor(
            name=name,
            description=f"what {name} measures",
            formulation="a/b",
            variables={"a": "close"},
            code=FACTOR_CODE.format(name=name, days=FACTOR_DAYS.get(name, 2)),
            implemented=name != "Broken",
        )
        for name in names
    )
    return ExperimentRecord(
        loop=loop,
        kind=ExperimentKind.FACTOR,
        decision=True,
        factors=factors,
        metrics={"IC": 0.03, "ICIR": float("nan")},
        based_on=based_on,
    )


def model_experiment(loop: int, workspace: Path, **more: Any) -> ExperimentRecord:
    """An accepted model experiment."""
    return ExperimentRecord(
        loop=loop, kind=ExperimentKind.MODEL, decision=True, model=Model("Net"), workspace=workspace, **more
    )


def write_workspace(workspace: Path) -> pd.DataFrame:
    """Write factor table and recorder; the predictions are the booster's own."""
    rng = np.random.default_rng(7)
    index = pd.MultiIndex.from_product([DAYS, INSTRUMENTS], names=["datetime", "instrument"])
    values = rng.normal(size=(len(index), len(TABLE)))
    columns = pd.MultiIndex.from_product([["feature"], TABLE])
    table = pd.DataFrame(values, index=index, columns=columns)
    table.to_parquet(workspace / "combined_factors_df.parquet")
    return write_recorder(workspace)


def write_recorder(
    workspace: Path, *, alpha: dict[str, str] | None = None, table: tuple[str, ...] = TABLE
) -> pd.DataFrame:
    """Train on the workspace's table and write the recorder.

    Args:
        workspace: With a factor table.
        alpha: Alpha features that take the place of columns of the table, name to expression.
        table: The columns that are left in the table.
    """
    path = workspace / "combined_factors_df.parquet"
    frame = pd.read_parquet(path)
    samples = frame["feature"][list(ORDER)].to_numpy()
    mean = np.nanmedian(samples, axis=0)
    std = (np.nanmedian(np.abs(samples - mean), axis=0) + 1e-12) * 1.4826
    processed = np.clip((samples - mean) / std, -3, 3)
    booster = train_booster(processed)
    predictions = pd.DataFrame({"score": booster.predict(processed)}, index=frame.index)
    frame[[("feature", name) for name in table]].to_parquet(path)
    run = workspace / "mlruns" / EXPERIMENT / RUN
    artifacts = run / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    (run / "meta.yaml").write_text(
        f"end_time: 1795247850796\nexperiment_id: '{EXPERIMENT}'\nlifecycle_stage: active\nrun_id: {RUN}\n"
        "status: 3\n"
    )
    predictions.to_pickle(artifacts / "pred.pkl")
    make_label(frame).to_pickle(artifacts / "label.pkl")
    (artifacts / "params.pkl").write_bytes(forge(_boosted(booster.model_to_string())))
    (artifacts / "dataset").write_bytes(forge(_dataset(mean, std, alpha or {})))
    (artifacts / "task").write_bytes(forge(_task()))
    (artifacts / "config").write_bytes(forge({"qlib_init": {"provider_uri": "~/.qlib/qlib_data/cn_data"}}))
    return predictions


def make_label(table: pd.DataFrame) -> pd.DataFrame:
    """The back-test's label: returns of which ``ZMom`` knows half; none on the last two days."""
    known = table["feature"]["ZMom"] if "ZMom" in table["feature"] else table["feature"].iloc[:, 0]
    noise = np.random.default_rng(11).normal(size=len(table))
    label = ((known + noise) / 100).rename("LABEL0").to_frame()
    label[label.index.get_level_values(0) > DAYS[-3]] = np.nan
    return label


def _boosted(text: str) -> Made:
    booster = Made("lightgbm.basic", "Booster", state={"_handle": text, "best_iteration": 0})
    return Made("qlib.contrib.model.gbdt", "LGBModel", state={"model": booster, "params": {}})


def _dataset(mean: np.ndarray, std: np.ndarray, alpha: dict[str, str]) -> Made:
    groups = {"label": LABEL, **({"feature": [list(alpha.values()), list(alpha)]} if alpha else {})}
    label = Made(
        "qlib.data.dataset.loader",
        "QlibDataLoader",
        state={
            "is_group": True,
            "fields": groups,
            "filter_pipe": None,
            "swap_level": True,
            "freq": "day",
            "inst_processors": {},
        },
    )
    table = Made("qlib.data.dataset.loader", "StaticDataLoader", state={"join": "outer"})
    nested = {"data_loader_l": [label, table], "join": "left"}
    handler = {
        "instruments": "csi300",
        "data_loader": Made("qlib.data.dataset.loader", "NestedDataLoader", state=nested),
        "infer_processors": [_normalizer(mean, std), _processor("Fillna", fill_value=0)],
        "shared_processors": [],
    }
    made = Made("qlib.contrib.data.handler", "DataHandlerLP", state=handler)
    return Made("qlib.data.dataset", "DatasetH", state={"handler": made})


def _normalizer(mean: np.ndarray, std: np.ndarray) -> Made:
    return _processor(
        "RobustZScoreNorm",
        cols=pd.MultiIndex.from_product([["feature"], ORDER]),
        mean_train=mean,
        std_train=std,
        clip_outlier=True,
        fit_start_time="2020-01-01",
        fit_end_time="2020-06-30",
    )


def _processor(name: str, **state: Any) -> Made:
    return Made("qlib.data.dataset.processor", name, state={"fields_group": "feature", **state})


def _task() -> dict[str, Any]:
    loaders = [
        {"class": "qlib.data.dataset.loader.QlibDataLoader", "kwargs": {"config": {"label": LABEL}}},
        {
            "class": "qlib.data.dataset.loader.StaticDataLoader",
            "kwargs": {"config": "combined_factors_df.parquet"},
        },
    ]
    handler = {
        "class": "DataHandlerLP",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "instruments": "csi300",
            "start_time": dt.date(2020, 1, 1),
            "data_loader": {"class": "NestedDataLoader", "kwargs": {"dataloader_l": loaders}},
        },
    }
    return {
        "model": {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {"loss": "mse"}},
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": handler, "segments": SEGMENTS},
        },
    }


@dataclass(frozen=True)
class _Global:
    module: str
    name: str

    def __call__(self) -> None:
        """Callable, as the pickler asks of what it writes a call of."""


class _Forger(pickle._Pickler):
    """Writes `Made` objects as calls of classes that need not exist, and all else as pickle does."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Made):
            return _Global(value.module, value.name), value.args, value.state
        return "global" if isinstance(value, _Global) else NotImplemented

    def save_global(self, value: object, name: str | None = None) -> None:
        if not isinstance(value, _Global):
            super().save_global(value, name)
            return
        self.save(value.module)
        self.save(value.name)
        self.write(pickle.STACK_GLOBAL)


def forge(value: object) -> bytes:
    """The pickle of a value with `Made` objects in it."""
    written = io.BytesIO()
    _Forger(written, protocol=4).dump(value)
    return written.getvalue()

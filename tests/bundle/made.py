"""Small valid bundles, made by hand in milliseconds: a real LightGBM booster or a real torch network, own documents.

Features: ``GapA`` and ``ZMom`` are mined, ``KLEN`` and ``ROC5`` are Alpha. In the model's order they mix: ``GapA``,
``KLEN``, ``ROC5``, ``ZMom``; in the table ``ZMom`` stands first.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    CODE_NAME,
    CONFIG_NAME,
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    NOT_AUDITED,
    ORDER_NAME,
    PREDICTIONS_NAME,
    REPLAY_NAME,
    REPORT_NAME,
    SLICE_NAME,
    TENSORS_NAME,
    WEIGHTS_NAME,
    AlphaFeature,
    FactorOrder,
    Importance,
    Manifest,
    ModelMeta,
    PrimaryAssets,
    Processor,
    ReplayNotes,
    ShippedFactor,
    ShippedFactors,
    Weights,
)
from rdagent_sota_patch.bundle.manifest import describe_versions, write_manifest
from rdagent_sota_patch.bundle.writing import BundleWriter

Kind = Literal["lightgbm", "tabular", "time_series"]

ORDER = ("GapA", "KLEN", "ROC5", "ZMom")
MINED = ("ZMom", "GapA")
ALPHA = {"KLEN": "($high-$low)/$open", "ROC5": "Ref($close, 5)/$close"}
STEP_LEN = 3
COMPARED_DAYS = 4
PREDICTED_DAYS = 6
INSTRUMENTS = tuple(f"SH6000{number:02d}" for number in range(12))
NOW = "2026-01-16T18:42:35+00:00"

FACTOR_CODE = """import pandas as pd

data = pd.read_hdf("daily_pv.h5", key="data").sort_index()
close = data["$close"].groupby(level="instrument", group_keys=False)
result = (data["$close"] / close.shift({days}) - 1).rename("{name}").astype("float64").to_frame().dropna()
result.to_hdf("result.h5", key="data")
"""
"""A factor that RD-Agent could have mined: the return of the last days."""

FACTOR_DAYS = {"ZMom": 3, "GapA": 1}

NETWORK_CODE = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_features, num_timesteps=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(num_features, 5), nn.SiLU(), nn.Linear(5, 1))

    def forward(self, x):
        if x.dim() == 3:
            x = x[:, -1, :] + 0.5 * x.mean(dim=1)
        return self.layers(x)


model_cls = Net
"""


@dataclass(frozen=True)
class Made:
    """A bundle made by hand.

    Attributes:
        raw: Feature values before processors: index datetime, instrument; columns in the model's order;
            ``replay/input.parquet``.
        predictions: Column score for the last `PREDICTED_DAYS` days; ``replay/predictions.parquet``.
        days: The days that a replay compares.
    """

    folder: Path
    manifest: Manifest
    raw: pd.DataFrame
    predictions: pd.DataFrame
    days: tuple[str, ...]


def make_bundle(
    folder: Path, kind: Kind = "lightgbm", *, replay: bool = True, factors_only: bool = False
) -> Made:
    """Write a bundle into ``folder``, which is made."""
    folder.mkdir()
    writer = BundleWriter(folder)
    step_len = STEP_LEN if kind == "time_series" else None
    raw = make_raw(step_len)
    processors = fit_processors(raw)
    samples, index = make_samples(process(raw, processors), step_len)
    weights, scores, importance = (
        _write_booster(writer, samples) if kind == "lightgbm" else _write_network(writer, samples, step_len)
    )
    if factors_only:
        writer = BundleWriter(_emptied(folder))
    predictions = pd.DataFrame({"score": scores}, index=index)
    days = tuple(day.date().isoformat() for day in index.get_level_values(0).unique()[-COMPARED_DAYS:])
    _write_factors(writer)
    if not factors_only:
        _write_order(writer)
        writer.add_document(
            META_NAME,
            ModelMeta(
                schema_version=1,
                kind="lightgbm" if kind == "lightgbm" else "torch",
                model=_model_config(kind),
                dataset={
                    "class": "TSDatasetH" if step_len else "DatasetH",
                    "module_path": "qlib.data.dataset",
                    "kwargs": {"step_len": step_len} if step_len else {},
                },
                handler={"class": "DataHandlerLP", "module_path": "qlib.contrib.data.handler", "kwargs": {}},
                segments={
                    "train": ("2020-01-01", "2020-06-30"),
                    "valid": ("2020-07-01", "2020-09-30"),
                    "test": (index[0][0].date().isoformat(), index[-1][0].date().isoformat()),
                },
                step_len=step_len,
                label={"LABEL0": "Ref($close, -2)/Ref($close, -1) - 1"},
                alpha=tuple(AlphaFeature(name=name, expression=text) for name, text in ALPHA.items()),
                instruments="csi300",
                processors=processors,
                weights=weights,
                feature_importance=importance,
            ),
        )
        writer.add_json(CONFIG_NAME, {"model": _model_config(kind), "dataset": {}})
    if replay and not factors_only:
        _write_replay(writer, raw, predictions, days)
    writer.add_json(REPORT_NAME, {"status": "success", "summary": {"sota_factors_count": len(MINED)}})
    manifest = _manifest(writer, factors_only)
    write_manifest(folder, manifest)
    return Made(folder, manifest, raw, predictions, days)


def make_raw(step_len: int | None) -> pd.DataFrame:
    """Feature values of some business days, history for the windows included; a few are missing."""
    rng = np.random.default_rng(11)
    days = pd.bdate_range("2020-10-05", periods=PREDICTED_DAYS + (step_len or 1) - 1)
    index = pd.MultiIndex.from_product([days, INSTRUMENTS], names=["datetime", "instrument"])
    values = rng.normal(size=(len(index), len(ORDER))) * [0.01, 0.05, 1.0, 3.0] + [0.0, 0.1, 1.0, -2.0]
    values[rng.random(values.shape) < 0.03] = np.nan
    return pd.DataFrame(values, index=index, columns=list(ORDER))


def fit_processors(raw: pd.DataFrame) -> tuple[Processor, ...]:
    """The two processors of RD-Agent's model templates, fitted as Qlib does."""
    values = raw.to_numpy()
    mean = np.nanmedian(values, axis=0)
    std = (np.nanmedian(np.abs(values - mean), axis=0) + 1e-12) * 1.4826
    fit = {"fields_group": "feature", "fit_start_time": "2020-01-01", "fit_end_time": "2020-06-30"}
    return (
        Processor(
            name="RobustZScoreNorm",
            module="qlib.data.dataset.processor",
            kwargs={**fit, "clip_outlier": True},
            columns=ORDER,
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
        ),
        Processor(name="Fillna", module="qlib.data.dataset.processor", kwargs={"fields_group": "feature"}),
    )


def process(raw: pd.DataFrame, processors: tuple[Processor, ...]) -> pd.DataFrame:
    """What Qlib makes of the raw values; for these two processors alone."""
    scaled = (raw - np.array(processors[0].mean)) / np.array(processors[0].std)
    return scaled.clip(-3, 3).fillna(0)


def make_samples(features: pd.DataFrame, step_len: int | None) -> tuple[np.ndarray, pd.MultiIndex]:
    """Samples of the last `PREDICTED_DAYS` days: rows, or windows of ``step_len`` days with the newest last."""
    days = features.index.get_level_values(0).unique()[-PREDICTED_DAYS:]
    wanted = features.loc[days[0] :]
    if step_len is None:
        return wanted.to_numpy(), wanted.index
    # (days, instruments, features): every instrument has every day.
    cube = features.to_numpy().reshape(-1, len(INSTRUMENTS), len(ORDER))
    windows = np.lib.stride_tricks.sliding_window_view(cube, step_len, axis=0)
    # (days, instruments, features, steps) to (days * instruments, steps, features).
    return windows.transpose(0, 1, 3, 2).reshape(-1, step_len, len(ORDER)).copy(), wanted.index


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Exchange a file of a bundle and list it again: a bundle that is whole, and not what it says."""
    writer = BundleWriter(folder)
    writer.add_bytes(name, content)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["files"][name] = writer.files[name].model_dump()
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def edit_document(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON document of a bundle; any but the manifest is listed again."""
    document = json.loads((folder / name).read_text())
    change(document)
    if name == MANIFEST_NAME:
        (folder / name).write_text(json.dumps(document))
    else:
        replace_file(folder, name, json.dumps(document).encode())


@contextmanager
def nested_folders(folder: Path, name: str, depth: int) -> Iterator[None]:
    """Folders of one name in each other, while the block runs; deeper than Python's own functions remove."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        yield
    finally:
        subprocess.run(["rm", "-rf", str(folder / name)], check=True)


def train_booster(samples: np.ndarray, seed: int = 5) -> Any:
    """A LightGBM booster of five trees on a made-up target."""
    import lightgbm

    target = samples[:, 0] - 0.5 * samples[:, -1] + samples[:, 1] * samples[:, 2]
    settings = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 3, "num_leaves": 7, "seed": seed}
    return lightgbm.train(settings, lightgbm.Dataset(samples, target), 5)


def _write_booster(
    writer: BundleWriter, samples: np.ndarray
) -> tuple[Weights, np.ndarray, tuple[Importance, ...]]:
    booster = train_booster(samples)
    writer.add_bytes(WEIGHTS_NAME, pickle.dumps(booster))
    writer.add_text(BOOSTER_NAME, booster.model_to_string())
    gains, splits = (booster.feature_importance(kind) for kind in ("gain", "split"))
    importance = [
        Importance(feature=name, gain=float(gain), split=int(split))
        for name, gain, split in zip(ORDER, gains, splits, strict=True)
    ]
    scores = np.asarray(booster.predict(samples))
    weights = Weights(pickle_relpath=WEIGHTS_NAME, booster_relpath=BOOSTER_NAME)
    return weights, scores, tuple(sorted(importance, key=lambda one: -one.gain))


def _write_network(
    writer: BundleWriter, samples: np.ndarray, step_len: int | None
) -> tuple[Weights, np.ndarray, None]:
    import torch
    from safetensors.numpy import save

    rng = np.random.default_rng(3)
    shapes = {
        "layers.0.weight": (5, 4),
        "layers.0.bias": (5,),
        "layers.2.weight": (1, 5),
        "layers.2.bias": (1,),
    }
    # Small, as scores are: where they reach 10, torch's adding in another order is seen in the sixth decimal.
    tensors = {name: (rng.normal(size=shape) * 0.3).astype("float32") for name, shape in shapes.items()}
    scope: dict[str, Any] = {}
    exec(compile(NETWORK_CODE, CODE_NAME, "exec"), scope)
    network = scope["model_cls"](**_network_kwargs(step_len))
    network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    network.eval()
    with torch.no_grad():
        scores = network(torch.from_numpy(samples).float()).numpy().ravel()
    writer.add_bytes(WEIGHTS_NAME, pickle.dumps(tensors))
    writer.add_bytes(TENSORS_NAME, save(tensors))
    writer.add_text(CODE_NAME, NETWORK_CODE)
    weights = Weights(pickle_relpath=WEIGHTS_NAME, tensors_relpath=TENSORS_NAME, code_relpath=CODE_NAME)
    return weights, scores, None


def _network_kwargs(step_len: int | None) -> dict[str, int]:
    return {"num_features": len(ORDER), **({"num_timesteps": step_len} if step_len else {})}


def _model_config(kind: Kind) -> dict[str, Any]:
    if kind == "lightgbm":
        return {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": {"loss": "mse"}}
    kwargs = _network_kwargs(STEP_LEN if kind == "time_series" else None)
    return {
        "class": "GeneralPTNN",
        "module_path": "qlib.contrib.model.pytorch_general_nn",
        "kwargs": {"batch_size": 512, "pt_model_uri": "model.model_cls", "pt_model_kwargs": kwargs},
    }


def _write_factors(writer: BundleWriter) -> None:
    factors = []
    for number, name in enumerate(MINED, start=1):
        relpath = f"factors/factor_{number}_{name}.py"
        writer.add_text(relpath, FACTOR_CODE.format(name=name, days=FACTOR_DAYS[name]))
        factors.append(
            ShippedFactor(
                index=number,
                name=name,
                description=f"return of the last {FACTOR_DAYS[name]} days",
                formulation="close_t / close_{t-n} - 1",
                variables={"close_t": "closing price of day t"},
                loop=number - 1,
                metrics={"IC": 0.02},
                in_table=True,
                code_relpath=relpath,
                missing_reason=None,
            )
        )
    writer.add_document(
        FACTORS_NAME, ShippedFactors(schema_version=1, task_id="made", factors=tuple(factors))
    )


def _write_order(writer: BundleWriter) -> None:
    order = FactorOrder(
        version="v1",
        task_run_id="made",
        loop_id=1,
        generated_at_utc=NOW,
        source_file="combined_factors_df.parquet",
        factor_order=ORDER,
        alpha_count=len(ALPHA),
        alpha158_count=len(ALPHA),
        dynamic_factor_count=len(MINED),
        dynamic_factor_order=MINED,
    )
    writer.add_document(ORDER_NAME, order)


def _write_replay(
    writer: BundleWriter, raw: pd.DataFrame, predictions: pd.DataFrame, days: tuple[str, ...]
) -> None:
    raw.to_parquet(writer.reserve(SLICE_NAME))
    predictions.to_parquet(writer.reserve(PREDICTIONS_NAME))
    writer.adopt(SLICE_NAME)
    writer.adopt(PREDICTIONS_NAME)
    notes = ReplayNotes(schema_version=1, days=days, predictions_rows=len(predictions), slice_rows=len(raw))
    writer.add_document(REPLAY_NAME, notes)


def _manifest(writer: BundleWriter, factors_only: bool) -> Manifest:
    def shipped(name: str) -> str | None:
        return name if name in writer.files else None

    return Manifest(
        schema_version=1,
        kind="rdagent-sota-bundle",
        stage="factor",
        factors_only=factors_only,
        task_id="made",
        loop=1,
        session={"log": "log/made", "snapshot": "log/made/__session__/1/4_record", "signature": "verified"},
        times={"exported_at_utc": NOW, "trained_at_utc": None},
        versions=describe_versions(),
        primary_assets=PrimaryAssets(
            factor_entry_relpath=shipped(FACTORS_NAME),
            model_weight_relpath=shipped(WEIGHTS_NAME),
            config_relpath=shipped(CONFIG_NAME),
            model_meta_relpath=shipped(META_NAME),
            factor_order_relpath=shipped(ORDER_NAME),
        ),
        provenance=None,
        audit=NOT_AUDITED,
        diagnostics={},
        files=dict(writer.files),
    )


def _emptied(folder: Path) -> Path:
    for path in folder.iterdir():
        path.unlink()
    return folder

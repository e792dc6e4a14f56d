"""Bundles of real runs: both stages, both model kinds, Tabular and TimeSeries; each replays its own back-test."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.export.export_run import Exported, ExportOptions, export_bundle
from rdagent_sota_patch.scoring.scoring import load_scorer, score_days
from tests.integration.conftest import RealRun, table_of

pytestmark = pytest.mark.real

MINED = ("OvernightGap10", "SkippedMomentum60", "GapVolumeCorr20")


Export = Callable[[RealRun], Exported]


@pytest.fixture(scope="module")
def export(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a run, each once: Qlib computes the Alpha features of the evidence for several seconds."""
    done: dict[Path, Exported] = {}

    def once(run: RealRun) -> Exported:
        log = run.result.log
        if log not in done:
            target = tmp_path_factory.mktemp(log.name) / "bundle"
            options = ExportOptions(qlib_dir=sandbox.qlib_data)
            done[log] = export_bundle(run.session, target, options, lambda _: None)
        return done[log]

    return once


def workspace_of(run: RealRun) -> Path:
    return Path(str(run.session.experiments[-1].workspace))


def predictions_of(workspace: Path) -> pd.DataFrame:
    """Qlib's own predictions of the one back-test in a workspace."""
    (path,) = (workspace / "mlruns").glob("*/*/artifacts/pred.pkl")
    return pd.read_pickle(path)


def test_the_factor_stage(export: Export, factor_run: RealRun) -> None:
    """The last accepted experiment, its LightGBM to the last bit, and all accepted factors."""
    exported = export(factor_run)
    assert exported.order is not None
    assert exported.meta is not None
    assert exported.replayed is not None
    assert (exported.manifest.stage, exported.manifest.loop, exported.meta.kind) == ("factor", 2, "lightgbm")
    assert exported.order.dynamic_factor_order == MINED
    assert exported.order.alpha_count == 20
    assert exported.order.factor_order == tuple(sorted(exported.order.factor_order))
    assert exported.replayed.max_difference == 0.0
    assert [(factor.name, factor.loop, factor.in_table) for factor in exported.factors.factors] == [
        ("OvernightGap10", 0, True),
        ("SkippedMomentum60", 2, True),
        ("GapVolumeCorr20", 2, True),
    ]
    assert exported.meta.feature_importance is not None
    assert {one.feature for one in exported.meta.feature_importance[:3]} == set(MINED)


def test_the_weights_are_the_trained_ones(export: Export, factor_run: RealRun) -> None:
    """Qlib, unpickling them, predicts what the shipped text predicts: on the slice, every bit."""
    bundle = open_bundle(export(factor_run).folder)
    raw = pd.read_parquet(bundle.folder / "replay" / "input.parquet")
    days = list(raw.index.get_level_values(0).unique())
    scores = score_days(bundle, load_scorer(bundle, trust=False), raw, days)
    theirs = predictions_of(table_of(factor_run).parent)["score"]
    assert np.array_equal(scores.to_numpy(), theirs.loc[scores.index].to_numpy())


@pytest.mark.usefixtures("both", "alone", "time_series")
@pytest.mark.parametrize("stage", ["both", "alone", "time_series"])
def test_the_model_stage(export: Export, request: pytest.FixtureRequest, stage: str) -> None:
    """A torch model on the factor stage's factors, with Alpha, alone and over several days."""
    run: RealRun = request.getfixturevalue(stage)
    exported = export(run)
    assert exported.order is not None
    assert exported.meta is not None
    assert exported.replayed is not None
    assert (exported.manifest.stage, exported.meta.kind) == ("model", "torch")
    assert exported.order.alpha_count == (20 if stage == "both" else 0)
    assert exported.meta.step_len == (20 if stage == "time_series" else None)
    assert exported.replayed.max_difference <= 1e-6
    assert exported.manifest.provenance is not None
    assert exported.manifest.provenance["source"]["task_id"] == "factor"
    assert {factor.name for factor in exported.factors.factors if factor.code_relpath} == set(MINED)
    shipped = pd.read_parquet(exported.folder / "replay" / "predictions.parquet")
    pd.testing.assert_frame_equal(
        shipped, predictions_of(workspace_of(run)), check_exact=True, check_freq=False
    )


def test_a_plain_model_log(export: Export, off: RealRun) -> None:
    """A run that knew nothing of this plugin ships its model on Alpha alone."""
    exported = export(off)
    assert exported.order is not None
    assert exported.order.alpha_count == len(exported.order.factor_order) == 20
    assert exported.factors.factors == ()
    assert exported.manifest.provenance is None


def test_nothing_of_a_run_is_executed(sandbox: Sandbox, factor_run: RealRun, tmp_path: Path) -> None:
    """Exporting imports neither RD-Agent, Qlib, torch nor MLflow into its process, and unpickles nothing."""
    code = (
        "import pickle, sys\n"
        "from pathlib import Path\n"
        "pickle.load = pickle.loads = None\n"
        "from rdagent_sota_patch.export.export_run import ExportOptions, export_bundle\n"
        "from rdagent_sota_patch.sessions import read_session\n"
        "options = ExportOptions(replay=False)\n"
        "export_bundle(read_session(Path(sys.argv[1])), Path(sys.argv[2]), options, lambda _: None)\n"
        "print([name for name in ('rdagent', 'qlib', 'torch', 'mlflow', 'lightgbm') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(factor_run.result.log), str(tmp_path / "bundle")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HOME": str(sandbox.home)}, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_changed_market_data_is_noticed(sandbox: Sandbox, factor_run: RealRun, tmp_path: Path) -> None:
    """Alpha features from other prices do not give the back-test's scores: nothing is written."""
    data = tmp_path / "cn_data"
    shutil.copytree(sandbox.qlib_data, data)
    for path in (data / "features").glob("*/close.day.bin"):
        values = np.fromfile(path, dtype="<f4")
        values[1:] *= np.random.default_rng(1).uniform(0.9, 1.1, len(values) - 1).astype("f4")
        values.tofile(path)
    with pytest.raises(SotaError) as caught:
        export_bundle(factor_run.session, tmp_path / "bundle", ExportOptions(qlib_dir=data), lambda _: None)
    assert caught.value.slug == "replay-differs"
    assert not (tmp_path / "bundle").exists()


def test_manifest_and_order_in_a_consumers_eyes(export: Export, both: RealRun) -> None:
    """With the names of the user's first sync scripts, and nothing that is not there."""
    folder = export(both).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    assets = manifest["primary_assets"]
    assert assets["combined_factors_relpath"] is None
    assert all((folder / path).is_file() for path in assets.values() if path is not None)
    order = json.loads((folder / assets["factor_order_relpath"]).read_text())
    assert order["alpha_count"] + order["dynamic_factor_count"] == len(order["factor_order"]) == 23

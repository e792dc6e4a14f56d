"""The main job: real ``fin_model`` runs on the factors of a real ``fin_factor`` run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.factor_table.table import read_factor_table
from tests.integration.conftest import RealRun, from_log, table_of
from tests.integration.evidence import (
    Trained,
    global_names,
    load_snapshot,
    look_at_training,
    run_tool,
    usage_of,
)

pytestmark = pytest.mark.real

MINED = ("OvernightGap10", "SkippedMomentum60", "GapVolumeCorr20")
ALPHA_COUNT = 20
RUNNER = "rdagent.scenarios.qlib.developer.model_runner QlibModelRunner"


def check_agreement(trained: Trained, expected: int) -> None:
    """The rendered configuration, the weights and the fitted processors tell the same number of features."""
    assert (trained.num_features, trained.input_size, len(trained.fitted)) == (expected,) * 3


def test_last_accepted_loop_is_the_source(factor_run: RealRun) -> None:
    """Accepted, rejected, accepted: the third loop is the SOTA, and the rejected factor is not in its table."""
    assert [experiment.decision for experiment in factor_run.session.experiments] == [True, False, True]
    sota = factor_run.session.sota
    assert sota is factor_run.session.experiments[2]
    assert read_factor_table(table_of(factor_run)).names == MINED


def test_off_is_plain_rdagent(sandbox: Sandbox, off: RealRun) -> None:
    """With nothing set, the model has Alpha's 20 features and its workspace no trace of the plugin."""
    trained = look_at_training(sandbox, off.session)
    check_agreement(trained, ALPHA_COUNT)
    assert not {"combined_factors_df.parquet", "sota_source.json"} & {
        p.name for p in trained.workspace.iterdir()
    }
    assert "SOTA factor experiment added" not in off.result.output


def test_off_keeps_the_run_cache_key(sandbox: Sandbox, off: RealRun) -> None:
    """An RD-Agent with the plugin disabled takes the run that the plugin, with nothing set, left in the cache."""
    result = sandbox.run(
        "fin_model", loops=1, name="disabled", environment={"RDAGENT_SOTA_DISABLE": "1", **off.cache}
    )
    session = sandbox.session(result.log)
    assert dict(session.experiments[0].metrics) == dict(off.session.experiments[0].metrics)
    assert not list(Path(str(session.experiments[0].workspace)).glob("mlruns"))
    # The other way round: what it wrote loads with the plugin, which then runs its next loops.
    loaded = load_snapshot(sandbox, session.snapshot, plugin=True)
    assert loaded == f"{RUNNER} rdagent_sota_patch.plugin.model_runner True"


def test_sota_alone(sandbox: Sandbox, alone: RealRun, factor_run: RealRun) -> None:
    """USE_ALPHA_FACTORS off: the model sees the mined factors, the label comes from a loader without features."""
    trained = look_at_training(sandbox, alone.session)
    check_agreement(trained, len(MINED))
    assert trained.fitted == tuple(sorted(MINED))
    assert trained.loaders == (
        "qlib.data.dataset.loader.QlibDataLoader",
        "qlib.data.dataset.loader.StaticDataLoader",
    )
    copied = trained.workspace / "combined_factors_df.parquet"
    assert copied.read_bytes() == table_of(factor_run).read_bytes()
    assert not copied.is_symlink() and not copied.samefile(table_of(factor_run))


def test_sota_and_alpha(sandbox: Sandbox, both: RealRun, off: RealRun, factor_run: RealRun) -> None:
    """Switched on in words, ``latest``: Alpha and the mined factors, in order of their names over all of them."""
    trained = look_at_training(sandbox, both.session)
    check_agreement(trained, ALPHA_COUNT + len(MINED))
    alpha = look_at_training(sandbox, off.session).fitted
    assert trained.fitted == tuple(sorted((*MINED, *alpha)))
    assert (trained.workspace / "combined_factors_df.parquet").read_bytes() == table_of(
        factor_run
    ).read_bytes()


def test_every_back_test_is_proven(sandbox: Sandbox, alone: RealRun, time_series: RealRun) -> None:
    """The features of the record are those of the fitted processors, read in the run itself."""
    for run in (alone, time_series):
        proof = usage_of(run.session)["proof"]
        assert (proof["status"], proof["reason"]) == ("proven", None)
        assert tuple(proof["columns"]) == look_at_training(sandbox, run.session).fitted
        assert "features-" not in run.result.output


def test_mined_factors_pay(both: RealRun, off: RealRun) -> None:
    """On the market in which their effect is planted, the mined factors raise the back-test's IC."""
    assert both.session.experiments[0].metrics["IC"] > off.session.experiments[0].metrics["IC"] + 0.02


def test_log_lines(both: RealRun) -> None:
    """The lines that people grep for are in the output, with true figures."""
    output = both.result.output
    for line in (
        "Found workspace from log: ",
        "SOTA factors loaded from workspace: ",
        "SOTA factors shape: (",
        "SOTA factor experiment added to based_experiments",
        "叠加Alpha因子: 20个",
        "3 SOTA + 20 Alpha → 23 features",
    ):
        assert line in output
    assert output.index("23 features") < output.index("Start Loop 0, Step 0")


def test_usage_is_recorded(both: RealRun, factor_run: RealRun) -> None:
    """``sota_source.json`` and the session tell source, factors with code, metrics and features alike."""
    usage = usage_of(both.session)
    source = factor_run.session.sota
    assert source is not None
    assert usage == both.session.experiments[0].sota_source
    assert usage["proof"]["status"] == "proven" and usage["proof"]["columns"] == usage["feature_order"]
    assert usage["source"]["loop"] == 2 and usage["source"]["task_id"] == "factor"
    assert usage["fingerprint"] == read_factor_table(table_of(factor_run)).fingerprint
    assert tuple(factor["name"] for factor in usage["factors"]) == MINED
    assert all("to_hdf" in factor["code"] and factor["formulation"] for factor in usage["factors"])
    assert usage["metrics"] == dict(source.metrics)
    assert usage["num_features"] == len(usage["feature_order"]) == 23
    assert usage["model"]["model_type"] == "Tabular"
    assert usage["model"]["metrics"]["IC"] == both.session.experiments[0].metrics["IC"]
    assert math.isfinite(usage["model"]["metrics"]["IC"])


def test_session_holds_nothing_of_the_plugin(sandbox: Sandbox, both: RealRun) -> None:
    """The session names no class of ours, and loads in an RD-Agent that has never heard of the plugin."""
    snapshots = [path for path in both.session.log.glob("__session__/*/*") if path.is_file()]
    assert snapshots
    for snapshot in snapshots:
        assert not {name for name in global_names(snapshot) if name.startswith("rdagent_sota_patch")}
    loaded = load_snapshot(sandbox, both.session.snapshot, plugin=False)
    assert loaded == f"{RUNNER} rdagent.scenarios.qlib.developer.model_runner False"


def test_based_experiments_are_as_before(both: RealRun) -> None:
    """The synthetic experiment is gone after ``develop``: the recorded experiment is built on nothing."""
    assert both.session.experiments[0].based_on == ()


def test_time_series(sandbox: Sandbox, time_series: RealRun) -> None:
    """A TimeSeries model takes 3 features over 20 days."""
    trained = look_at_training(sandbox, time_series.session)
    check_agreement(trained, len(MINED))
    assert trained.dataset == "TSDatasetH"


def test_saved_file_is_the_accepted_set(sandbox: Sandbox, factor_run: RealRun) -> None:
    """SAVE_SOTA_FACTORS wrote twice, for the accepted loops, and the file holds the last accepted table."""
    saved = [line for line in factor_run.result.output.splitlines() if "SOTA factors saved to" in line]
    assert len(saved) == 2
    table = read_factor_table(sandbox.project / "sota_factors.parquet")
    assert table.fingerprint == read_factor_table(table_of(factor_run)).fingerprint


def test_load_from_file_takes_the_cached_run(
    sandbox: Sandbox, both: RealRun, factor_run: RealRun, tmp_path: Path
) -> None:
    """The cache is by content: the same factors from a saved file hit it, and the workspace is whole."""
    target = tmp_path / "因子 set.parquet"
    saved = run_tool(sandbox, "save", str(factor_run.result.log), "--out", str(target), "--json")
    assert saved.returncode == 0, saved.stderr
    result = sandbox.run(
        "fin_model",
        loops=1,
        name="cached",
        environment={
            "LOAD_SOTA_FACTORS": "true",
            "SOTA_FACTORS_PATH": str(target),
            "USE_ALPHA_FACTORS": "true",
            **both.cache,
        },
    )
    assert "Result taken from the run cache" in result.output
    session = sandbox.session(result.log)
    check_agreement(look_at_training(sandbox, session), 23)
    experiment = session.experiments[0]
    assert dict(experiment.metrics) == dict(both.session.experiments[0].metrics)
    assert experiment.sota_source is not None
    assert experiment.sota_source["source"]["kind"] == "file"
    assert experiment.sota_source["factors"][0]["code"]


def test_resumed_run_keeps_the_factors(sandbox: Sandbox, alone: RealRun, factor_run: RealRun) -> None:
    """One more loop with ``--path LOG/__session__``: its model stands on the same table."""
    result = sandbox.run(
        "fin_model",
        loops=2,
        name=alone.result.log.name,
        resume=alone.result.log / "__session__",
        environment={**from_log(factor_run), **alone.cache},
    )
    session = sandbox.session(result.log)
    assert len(session.experiments) == 2
    trained = look_at_training(sandbox, session)
    check_agreement(trained, len(MINED))
    assert (trained.workspace / "combined_factors_df.parquet").read_bytes() == table_of(
        factor_run
    ).read_bytes()


def test_resumed_run_refuses_other_factors(sandbox: Sandbox, alone: RealRun, tmp_path: Path) -> None:
    """A resumed run whose source is another one now stops, and says which two."""
    other = pd.read_parquet(usage_of(alone.session)["source"]["table"]) * 2
    other.to_parquet(tmp_path / "other.parquet")
    result = sandbox.run(
        "fin_model",
        loops=3,
        name=alone.result.log.name,
        resume=alone.result.log / "__session__",
        environment={"LOAD_SOTA_FACTORS": "1", "SOTA_FACTORS_PATH": str(tmp_path / "other.parquet")},
        check=False,
    )
    assert result.exit_code == 1
    assert "[source-changed]" in result.output


def test_parallel_steps(sandbox: Sandbox, parallel: RealRun) -> None:
    """Steps in processes of their own, two at a time, and a process pool for factors: the same features."""
    assert len(parallel.session.experiments) == 2
    for position in range(2):
        check_agreement(look_at_training(sandbox, parallel.session, position), len(MINED))


def test_inspect_and_doctor_tell_the_figures(sandbox: Sandbox, both: RealRun, factor_run: RealRun) -> None:
    """``inspect`` of the model log and ``doctor`` name source, counts and ICs."""
    inspected = json.loads(run_tool(sandbox, "inspect", str(both.result.log), "--json").stdout)
    assert inspected["loops"][0]["sota_source"]["sota_factor_count"] == 3
    assert (
        inspected["loops"][0]["sota_source"]["metrics"]["IC"]
        == factor_run.session.experiments[2].metrics["IC"]
    )
    doctor = run_tool(sandbox, "doctor", "--json", **from_log(factor_run, USE_ALPHA_FACTORS="true"))
    diagnosis = json.loads(doctor.stdout)
    assert doctor.returncode == 0 and diagnosis["problems"] == []
    assert (diagnosis["alpha_factors"], diagnosis["num_features"]) == (20, 23)
    assert diagnosis["source"]["factors"] == list(MINED)

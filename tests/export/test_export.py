"""Exporting a run: what the bundle holds, and that there is a whole one or none."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.export.export_run import Exported, ExportOptions, export_bundle, factor_codes
from rdagent_sota_patch.lookahead.verdicts import Audit, FactorVerdict
from rdagent_sota_patch.scoring.replay import replay_slice
from tests.export.made_run import (
    DAYS,
    EXPERIMENT,
    ORDER,
    RUN,
    TABLE,
    MadeRun,
    forge,
    make_run,
    model_experiment,
)


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path / "project")


def export(run: MadeRun, target: Path, **options: Any) -> Exported:
    return export_bundle(run.session, target, ExportOptions(**options), lambda _: None)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def artifacts_of(run: MadeRun) -> Path:
    return run.workspace / "mlruns" / EXPERIMENT / RUN / "artifacts"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Have the system refuse to make any file larger: what a full disk does, in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_bundle_opens_and_replays(run: MadeRun, tmp_path: Path) -> None:
    """It is one that `verify` accepts, and its replay is exact."""
    exported = export(run, tmp_path / "bundle")
    assert exported.replayed is not None
    assert (exported.replayed.rows, exported.replayed.max_difference) == (60, 0.0)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest == exported.manifest
    assert replay_slice(bundle) == exported.replayed
    assert left_in(tmp_path) == ["bundle", "project"]


def test_the_order_is_the_models(run: MadeRun, tmp_path: Path) -> None:
    """Lexicographic over all features; the table's own order beside it."""
    export(run, tmp_path / "bundle")
    order = read_json(tmp_path / "bundle" / "factor_order.json")
    assert order["factor_order"] == list(ORDER)
    assert order["dynamic_factor_order"] == list(TABLE)
    assert (order["alpha_count"], order["alpha158_count"], order["dynamic_factor_count"]) == (0, 0, 3)
    assert (order["version"], order["task_run_id"], order["loop_id"]) == ("v1", "mined", 2)


def test_weights_are_shipped_byte_for_byte(run: MadeRun, tmp_path: Path) -> None:
    """And beside them in LightGBM's own text."""
    import lightgbm

    export(run, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "model.pkl").read_bytes() == (artifacts_of(run) / "params.pkl").read_bytes()
    booster = lightgbm.Booster(model_file=str(tmp_path / "bundle" / "model.txt"))
    assert booster.num_feature() == 3
    meta = read_json(tmp_path / "bundle" / "model_meta.json")
    assert meta["kind"] == "lightgbm"
    assert meta["weights"]["pickle_relpath"] == "model.pkl"
    gains = dict(zip(ORDER, booster.feature_importance("gain"), strict=True))
    assert [one["feature"] for one in meta["feature_importance"]] == sorted(
        ORDER, key=lambda name: -gains[name]
    )
    assert meta["processors"][0]["columns"] == list(ORDER)


def test_the_manifest_lists_every_file(run: MadeRun, tmp_path: Path) -> None:
    """With size and hash; itself excepted."""
    export(run, tmp_path / "bundle")
    manifest = read_json(tmp_path / "bundle" / "manifest.json")
    found = {
        path.relative_to(tmp_path / "bundle").as_posix(): {
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in (tmp_path / "bundle").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert manifest["files"] == found
    assert (manifest["task_id"], manifest["loop"], manifest["stage"]) == ("mined", 2, "factor")
    assert manifest["audit"] == "not audited"
    assert manifest["times"]["trained_at_utc"].startswith("2026-11-21T")
    assert manifest["times"]["segments"]["test"] == ["2020-10-05", "2020-10-16"]
    assert manifest["versions"]["pandas"] == pd.__version__
    assert manifest["diagnostics"]["table_has_gaps"] is False
    assert manifest["primary_assets"] == {
        "factor_entry_relpath": "factors/factor_2_GapA.py",
        "model_weight_relpath": "model.pkl",
        "config_relpath": "config.json",
        "combined_factors_relpath": None,
        "model_meta_relpath": "model_meta.json",
        "factor_order_relpath": "factor_order.json",
    }


def test_the_report_has_the_fields_of_the_first_script(run: MadeRun, tmp_path: Path) -> None:
    """A reader of the user's own reports finds everything where it was."""
    export(run, tmp_path / "bundle")
    report = read_json(tmp_path / "bundle" / "extract_report.json")
    assert {
        "extract_time",
        "task_log_path",
        "output_dir",
        "session_index",
        "status",
        "note",
        "summary",
    } == set(report)
    assert (report["session_index"], report["output_dir"]) == (2, str(tmp_path / "bundle"))
    # One of the four was never implemented.
    assert report["status"] == "partial"
    assert report["summary"] == {
        "sota_factors_count": 4,
        "factors_without_code": ["Broken"],
        "model_weight_exists": True,
        "model_code_exists": False,
        "combined_factors_exists": False,
    }


def test_evidence_stays_in_replay(run: MadeRun, tmp_path: Path) -> None:
    """The predictions as they were, a few days of input, and nothing of the kind anywhere else."""
    export(run, tmp_path / "bundle")
    predictions = pd.read_parquet(tmp_path / "bundle" / "replay" / "predictions.parquet")
    pd.testing.assert_frame_equal(predictions, run.predictions, check_exact=True, check_freq=False)
    raw = pd.read_parquet(tmp_path / "bundle" / "replay" / "input.parquet")
    table = pd.read_parquet(run.workspace / "combined_factors_df.parquet")["feature"]
    assert list(raw.columns) == list(ORDER)
    assert raw.equals(table.loc[raw.index, list(ORDER)])
    notes = read_json(tmp_path / "bundle" / "replay" / "replay.json")
    assert notes["days"] == [f"{DAYS[place]:%Y-%m-%d}" for place in (0, 2, 4, 7, 9)]
    assert [path for path in (tmp_path / "bundle").rglob("*.parquet") if path.parent.name != "replay"] == []


def test_without_evidence(run: MadeRun, tmp_path: Path) -> None:
    """--no-replay leaves the folder out, and nothing is replayed."""
    exported = export(run, tmp_path / "bundle", replay=False)
    assert exported.replayed is None
    assert not (tmp_path / "bundle" / "replay").exists()
    open_bundle(tmp_path / "bundle")


def test_a_model_that_does_not_replay_is_not_shipped(run: MadeRun, tmp_path: Path) -> None:
    """The predictions are another model's: nothing is written, and the message gives the difference."""
    changed = run.predictions + 1e-9
    changed.to_pickle(artifacts_of(run) / "pred.pkl")
    with pytest.raises(SotaError, match="1e-09") as caught:
        export(run, tmp_path / "bundle")
    assert caught.value.slug == "replay-differs"
    assert left_in(tmp_path) == ["project"]


def test_a_run_without_weights_says_so(run: MadeRun, tmp_path: Path) -> None:
    """Accepted factors and no weights: an error, or the factors alone when told so."""
    shutil.rmtree(run.workspace / "mlruns")
    with pytest.raises(SotaError, match="No model's weights") as caught:
        export(run, tmp_path / "bundle")
    assert caught.value.slug == "weights-missing"
    assert "--factors-only" in caught.value.problems[0].hint
    assert left_in(tmp_path) == ["project"]
    exported = export(run, tmp_path / "bundle", factors_only=True)
    assert exported.manifest.factors_only
    assert exported.manifest.primary_assets.model_weight_relpath is None
    assert [factor.name for factor in exported.factors.factors] == ["ZMom", "GapA", "Extra", "Broken"]
    assert left_in(tmp_path / "bundle") == [
        "extract_report.json",
        "factors",
        "manifest.json",
        "sota_factors.json",
    ]
    open_bundle(tmp_path / "bundle")


def test_the_recorded_weights_are_the_ones(run: MadeRun, tmp_path: Path) -> None:
    """Where the plugin recorded what was trained, other weights in its place are refused."""
    weights = (artifacts_of(run) / "params.pkl").read_bytes()
    record = {
        "schema_version": 1,
        "experiment_id": EXPERIMENT,
        "run_id": RUN,
        "path": str(artifacts_of(run).parent),
        "weights": {
            "name": "params.pkl",
            "size": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
        },
        "embedded": False,
    }
    *before, last = run.session.experiments
    recorded = replace(
        run, session=replace(run.session, experiments=(*before, replace(last, artifacts=record)))
    )
    export(recorded, tmp_path / "good")
    (artifacts_of(run) / "params.pkl").write_bytes(weights + b"\0")
    with pytest.raises(SotaError) as caught:
        export(recorded, tmp_path / "bad")
    assert caught.value.slug == "weights-changed"


@pytest.mark.parametrize("limit", [100, 500, 1500, 4000])
def test_a_full_disk_leaves_nothing(run: MadeRun, tmp_path: Path, limit: int) -> None:
    """Wherever the export runs out of room: no folder, no litter, and a word about it."""
    with pytest.raises(SotaError) as caught, file_size_limit(limit):
        export(run, tmp_path / "bundle")
    assert caught.value.slug == "cannot-write"
    assert left_in(tmp_path) == ["project"]


def test_a_full_disk_keeps_the_old_bundle(run: MadeRun, tmp_path: Path) -> None:
    """--force on a disk that runs full: the old bundle is whole."""
    export(run, tmp_path / "bundle")
    before = open_bundle(tmp_path / "bundle").manifest
    with pytest.raises(SotaError), file_size_limit(4000):
        export(run, tmp_path / "bundle", force=True)
    assert open_bundle(tmp_path / "bundle").manifest == before
    assert left_in(tmp_path) == ["bundle", "project"]
    assert export(run, tmp_path / "bundle", force=True).manifest.files.keys() == before.files.keys()


def test_a_signed_bundle(run: MadeRun, tmp_path: Path) -> None:
    """It opens as signed with the key, and as any other without."""
    key = os.urandom(32)
    export(run, tmp_path / "bundle", key=key)
    assert open_bundle(tmp_path / "bundle", key=key).signed
    assert not open_bundle(tmp_path / "bundle").signed


def test_verdicts_go_into_the_manifest(run: MadeRun, tmp_path: Path) -> None:
    """As they were given, and what was to be audited is what the model takes."""
    codes = factor_codes(run.session, None, ())
    assert list(codes) == ["ZMom", "GapA", "Extra"]
    verdict = FactorVerdict(
        name="ZMom",
        causal=True,
        changed_share=0.0,
        max_change=None,
        lookback_days=4,
        code_sha256=hashlib.sha256(codes["ZMom"].encode()).hexdigest(),
    )
    audit = Audit(
        audited_at_utc="2026-01-16T18:42:35+00:00",
        data_start="2019-01-01",
        data_end="2020-12-31",
        cuts=("2020-01-02",),
        factors=(verdict,),
    )
    export(run, tmp_path / "bundle", audit=audit)
    assert open_bundle(tmp_path / "bundle").manifest.audit == audit


def test_a_model_on_another_runs_factors(run: MadeRun, tmp_path: Path) -> None:
    """Their provenance is in the manifest, and their code in the bundle."""
    factors = [
        {"name": name, "description": "", "formulation": "", "variables": {}, "code": "pass\n", "loop": 7}
        for name in TABLE
    ]
    source = {
        "schema_version": 1,
        "source": {"kind": "log", "task_id": "mined-before", "loop": 7},
        "fingerprint": "sha256:00",
        "factors": factors,
        "metrics": {"IC": float("nan")},
    }
    model = model_experiment(1, run.workspace, sota_source=source)
    exported = export(replace(run, session=replace(run.session, experiments=(model,))), tmp_path / "bundle")
    assert exported.manifest.stage == "model"
    provenance = read_json(tmp_path / "bundle" / "manifest.json")["provenance"]
    assert provenance["source"]["task_id"] == "mined-before"
    assert provenance["factors"] == list(TABLE)
    assert provenance["metrics"] == {"IC": None}
    assert {factor.loop for factor in exported.factors.factors} == {7}


def test_evidence_needs_market_data_where_alpha_features_are(run: MadeRun, tmp_path: Path) -> None:
    """Without Qlib's data there is no slice; the message names both ways out."""
    add_alpha(run)
    (artifacts_of(run) / "config").write_bytes(forge({"qlib_init": {"provider_uri": str(tmp_path / "gone")}}))
    with pytest.raises(SotaError, match="gone") as caught:
        export(run, tmp_path / "bundle")
    assert caught.value.slug == "replay-needs-market-data"
    assert {"--qlib-dir", "--no-replay"} <= set(
        caught.value.problems[0].hint.replace(",", "").replace(".", "").split()
    )
    assert left_in(tmp_path) == ["project"]


def test_a_harmful_expression_is_not_given_to_qlib(run: MadeRun, tmp_path: Path) -> None:
    """A stranger's recorder may say anything; nothing of it is run."""
    witness = tmp_path / "witness"
    add_alpha(run, f"open('{witness}', 'w').close()")
    with pytest.raises(SotaError) as caught:
        export(run, tmp_path / "bundle", qlib_dir=tmp_path)
    assert caught.value.slug == "expression-refused"
    assert not witness.exists()


def add_alpha(run: MadeRun, expression: str = "$close/$open") -> None:
    """Have the training load an Alpha feature in place of the mined factor ``Extra``, of which the name sorts alike."""
    from tests.export.made_run import write_recorder

    write_recorder(run.workspace, alpha={"Extra": expression}, table=("ZMom", "GapA"))


def test_a_configuration_of_another_type_is_told(run: MadeRun, tmp_path: Path) -> None:
    """What no document can hold is what the recorder says, and no mistake of whoever exports it."""
    from tests.export import made_run

    task = made_run._task()
    task["model"]["kwargs"] = None
    (artifacts_of(run) / "task").write_bytes(forge(task))
    with pytest.raises(SotaError, match="kwargs") as caught:
        export(run, tmp_path / "bundle")
    assert caught.value.slug == "artifact-unreadable"
    assert left_in(tmp_path) == ["project"]


def test_scores_are_those_of_the_shipped_order(run: MadeRun, tmp_path: Path) -> None:
    """In the table's order the same input gives other scores: the evidence can tell the two apart."""
    import lightgbm

    export(run, tmp_path / "bundle")
    raw = pd.read_parquet(tmp_path / "bundle" / "replay" / "input.parquet")
    (scale, _) = read_json(tmp_path / "bundle" / "model_meta.json")["processors"]
    processed = np.clip((raw - scale["mean"]) / scale["std"], -3, 3)
    booster = lightgbm.Booster(model_file=str(tmp_path / "bundle" / "model.txt"))
    shipped = run.predictions.loc[raw.index, "score"].to_numpy()
    assert np.array_equal(booster.predict(processed[list(ORDER)].to_numpy()), shipped)
    assert not np.array_equal(booster.predict(processed[list(TABLE)].to_numpy()), shipped)

"""Ablation of a real factor run: what is trained is what Qlib trained, and the command answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rdagent_sota_patch.ablation.fitting import Trial, fit_and_score
from rdagent_sota_patch.ablation.preparing import load_segment, prepare_window
from rdagent_sota_patch.ablation.recipe import read_recipe
from rdagent_sota_patch.ablation.subject import (
    CodeOptions,
    load_subject,
    subject_of_bundle,
    subject_of_log,
)
from rdagent_sota_patch.ablation.walk import Window
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.export.export_run import ExportOptions, export_bundle
from rdagent_sota_patch.factor_table.provenance import read_provenance
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.scoring.market_days import MarketFiles
from tests.integration.conftest import RealRun

pytestmark = pytest.mark.real

MINED = ("OvernightGap10", "SkippedMomentum60", "GapVolumeCorr20")


def test_a_trial_on_the_runs_own_days_gives_the_runs_own_scores(
    factor_run: RealRun, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Features, label, processors and boosting are the run's: all of them, or the scores would differ."""
    subject = subject_of_log(factor_run.session, None, (), sandbox.qlib_data, sandbox.qlib_data)
    arrays = load_subject(subject, tmp_path, 1, lambda *_: None)
    assert subject.mined == MINED
    recipe = read_recipe(subject.meta)
    assert recipe.horizon == 2
    spans = []
    for name in ("train", "valid", "test"):
        start, end = (pd.Timestamp(day) for day in subject.meta.segments[name])
        spans.append((int(arrays.days.searchsorted(start)), int(arrays.days.searchsorted(end, side="right"))))
    prepare_window(arrays, Window(*spans), recipe, tmp_path / "window")
    test = load_segment(tmp_path / "window", "test")
    trial = Trial("", arrays.names, 0, Window(*spans))
    scores, _ = fit_and_score(trial, arrays.names, recipe.boosting, tmp_path / "window", test)
    workspace = Path(str(factor_run.session.experiments[-1].workspace))
    (path,) = (workspace / "mlruns").glob("*/*/artifacts/pred.pkl")
    theirs = pd.read_pickle(path)["score"].to_numpy()
    assert len(scores) == len(theirs)
    assert np.abs(scores - theirs).max() < 1e-9


def test_the_command(
    factor_run: RealRun, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mined factors make the market's signal; the set that is saved is a factor file."""
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY_PATH", str(sandbox.signing_key))
    out, save = tmp_path / "out", tmp_path / "kept.parquet"
    asked = ["ablate", str(factor_run.result.log), "--qlib-dir", str(sandbox.qlib_data), "--out", str(out)]
    more = ["--save", str(save), "--seeds", "1", "--windows", "2", "--jobs", "2", "--json"]
    done = CliRunner().invoke(app, [*asked, *more])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert [factor["name"] for factor in answer["factors"]] == list(MINED)
    sets = {(one["kind"], one["name"]): one["ic"] for one in answer["sets"]}
    assert sets["mined", None] > sets["alpha", None]
    table = read_factor_table(save)
    assert set(table.names) == set(answer["smallest"])
    provenance = read_provenance(save)
    assert provenance is not None
    assert provenance.task_id == factor_run.session.task_id
    assert all(origin.code for origin in provenance.factors)
    again = CliRunner().invoke(app, [*asked, *more])
    assert {**json.loads(again.stdout)} == answer
    assert not list(out.glob("ablation-work-*"))
    nothing = tmp_path / "nothing.parquet"
    more = ["--save", str(nothing), "--seeds", "1", "--windows", "1", "--json"]
    done = CliRunner().invoke(app, [*asked, *more])
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["smallest"], answer["saved"]) == (1, None, None)
    assert [problem["slug"] for problem in answer["problems"]] == ["one-window", "nothing-saved"]
    assert not nothing.exists()


def test_a_bundle_has_the_logs_features(factor_run: RealRun, sandbox: Sandbox, tmp_path: Path) -> None:
    """Its factors' code is run again, and every value of every feature is the factor table's to the last bit."""
    target = tmp_path / "bundle"
    export_bundle(factor_run.session, target, ExportOptions(qlib_dir=sandbox.qlib_data), lambda _: None)
    market = MarketFiles(sandbox.factor_data, sandbox.qlib_data)
    (tmp_path / "bundled").mkdir()
    (tmp_path / "logged").mkdir()
    bundled = subject_of_bundle(
        open_bundle(target), market, tmp_path / "bundled", CodeOptions(jobs=2), lambda *_: None
    )
    logged = subject_of_log(factor_run.session, None, (), sandbox.qlib_data, sandbox.qlib_data)
    digests = {
        load_subject(subject, tmp_path / name, 1, lambda *_: None).digest
        for name, subject in (("bundled", bundled), ("logged", logged))
    }
    assert len(digests) == 1
    assert [origin.name for origin in bundled.origins] == [origin.name for origin in logged.origins]

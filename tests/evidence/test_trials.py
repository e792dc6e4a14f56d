"""Which trials are counted, and which have returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.evidence import trials as module
from rdagent_sota_patch.evidence.trials import Ledger, gather_trials
from rdagent_sota_patch.sessions.records import (
    ExperimentKind,
    ExperimentRecord,
    Factor,
    Model,
    Session,
    Signature,
)
from tests.mlruns.forged_recorder import write_backtest, write_recorder

DAYS = pd.bdate_range("2020-01-01", periods=40, name="datetime")
METRICS: Mapping[str, float] = MappingProxyType({"IC": 0.03})


def experiment(loop: int, decision: bool, workspace: Path | None, **more: Any) -> ExperimentRecord:
    more = {"metrics": METRICS, "factors": (Factor(f"F{loop}"),), **more}
    return ExperimentRecord(loop, ExperimentKind.FACTOR, decision=decision, workspace=workspace, **more)


def model(loop: int, decision: bool, workspace: Path, **more: Any) -> ExperimentRecord:
    given: dict[str, Any] = {"metrics": METRICS, "model": Model(f"M{loop}"), **more}
    return ExperimentRecord(loop, ExperimentKind.MODEL, decision=decision, workspace=workspace, **given)


def session(log: Path, *experiments: ExperimentRecord, loops: int = 0) -> Session:
    for loop in range(loops):
        (log / "__session__" / str(loop)).mkdir(parents=True)
    return Session(log, log / "__session__" / "0" / "x", Signature.UNSIGNED, "FactorRDLoop", experiments)


def back_tested(folder: Path, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    report = pd.DataFrame(
        {"return": rng.normal(size=40), "cost": 0.001, "turnover": 0.1, "bench": 0.0}, index=DAYS
    )
    daily = pd.Series(rng.normal(size=40), index=DAYS)
    write_backtest(write_recorder(folder, {"Close": "$close"}), report, daily, daily)
    return folder


def told(ledger: Ledger) -> list[tuple[str, int, str, str, bool]]:
    return [
        (trial.run, trial.loop, trial.kind, trial.status, trial.excess is not None) for trial in ledger.trials
    ]


def test_accepted_rejected_failed_cached_and_gone(tmp_path: Path) -> None:
    """Each is a trial, with returns or with the reason why it has none."""
    first = back_tested(tmp_path / "w0")
    run = session(
        tmp_path / "log" / "run",
        experiment(0, True, first),
        experiment(1, False, back_tested(tmp_path / "w1", 1)),
        experiment(2, False, None, metrics={}),
        experiment(3, False, first),
        experiment(5, True, tmp_path / "gone"),
        loops=8,
    )
    ledger = gather_trials([run], ())
    assert told(ledger) == [
        ("run", 0, "factor", "accepted", True),
        ("run", 1, "factor", "rejected", True),
        ("run", 2, "factor", "failed", False),
        ("run", 3, "factor", "cached", True),
        ("run", 5, "factor", "accepted", False),
        ("run", 4, "other", "failed", False),
    ]
    # Loops 6 and 7 may still be running: they are no trials yet.
    assert ledger.winner is ledger.trials[4]
    said = {problem.message for problem in ledger.problems}
    assert "run, loop 2 (F2): it has no result." in said
    assert f"run, loop 5 (F5): its workspace, recorded as {tmp_path / 'gone'}, is gone." in said
    assert {problem.slug for problem in ledger.problems} == {"trial-without-returns"}


def source(kind: str, path: Path) -> Mapping[str, Any]:
    return {"source": {"kind": kind, "path": str(path)}}


def test_the_run_that_the_factors_come_from_is_counted(tmp_path: Path, mocker: Any) -> None:
    """Once, before the model run, also when it is named as well."""
    factors = session(tmp_path / "log" / "factor", experiment(0, True, back_tested(tmp_path / "w0")))
    mocker.patch.object(module, "read_session", return_value=factors)
    models = session(
        tmp_path / "log" / "model",
        model(0, True, back_tested(tmp_path / "w1", 1), sota_source=source("log", factors.log)),
        model(1, False, back_tested(tmp_path / "w2", 2), sota_source=source("log", factors.log)),
    )
    expected = [
        ("factor", 0, "factor", "accepted", True),
        ("model", 0, "model", "accepted", True),
        ("model", 1, "model", "rejected", True),
    ]
    alone, both = gather_trials([models], ()), gather_trials([factors, models], ())
    assert told(alone) == told(both) == expected
    assert alone.winner is alone.trials[1]
    assert not alone.problems


@pytest.mark.parametrize("kind", ["workspace", "log"])
def test_a_source_that_cannot_be_counted_is_said(tmp_path: Path, mocker: Any, kind: str) -> None:
    mocker.patch.object(module, "read_session", side_effect=SourceError("log-not-found", "There is no log."))
    run = session(
        tmp_path / "log" / "model",
        model(0, True, back_tested(tmp_path / "w"), sota_source=source(kind, tmp_path / "far")),
    )
    (problem,) = gather_trials([run], ()).problems
    assert problem.slug == "source-not-counted"
    assert str(tmp_path / "far") in problem.message


def test_what_was_inherited_is_counted_once(tmp_path: Path) -> None:
    """Where it was tried, if that run is there; otherwise here."""
    origin = {"task_id": "factor", "loop": 0}
    workspace = back_tested(tmp_path / "w0")
    inherited = experiment(-2, True, workspace, inherited_from=origin)
    run = session(tmp_path / "log" / "next", inherited, experiment(0, False, back_tested(tmp_path / "w1", 1)))
    assert told(gather_trials([run], ())) == [
        ("next", 0, "factor", "inherited", True),
        ("next", 0, "factor", "rejected", True),
    ]
    first = session(tmp_path / "log" / "factor", experiment(0, True, workspace))
    assert told(gather_trials([first, run], ())) == [
        ("factor", 0, "factor", "accepted", True),
        ("next", 0, "factor", "rejected", True),
    ]


def test_moved_workspaces_are_found(tmp_path: Path) -> None:
    """Under SOTA_WORKSPACE_ROOT, as everywhere else."""
    back_tested(tmp_path / "moved" / "w0")
    run = session(tmp_path / "log" / "run", experiment(0, True, Path("/elsewhere/w0")))
    assert told(gather_trials([run], (tmp_path / "moved",))) == [("run", 0, "factor", "accepted", True)]

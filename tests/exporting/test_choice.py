"""Which experiment of a run is shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.exporting.choice import choose_experiment, find_workspace_of
from rdagent_sota_patch.sessions.records import ExperimentRecord, Session
from tests.exporting.made_run import MadeRun, factor_experiment, make_run, model_experiment


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path / "project")


def holding(run: MadeRun, *experiments: ExperimentRecord) -> Session:
    return replace(run.session, experiments=experiments)


def test_a_factor_log_ships_its_last_accepted_experiment(run: MadeRun) -> None:
    """With every accepted one before it, and no rejected one."""
    choice = choose_experiment(run.session)
    assert (choice.stage, choice.experiment.loop) == ("factor", 2)
    assert [experiment.loop for experiment in choice.accepted] == [0, 2]


def test_a_model_log_ships_its_last_accepted_model(run: MadeRun) -> None:
    """A rejected model after it does not count."""
    rejected = replace(model_experiment(2, run.workspace), decision=False)
    session = holding(run, model_experiment(0, run.workspace), model_experiment(1, run.workspace), rejected)
    choice = choose_experiment(session)
    assert (choice.stage, choice.experiment.loop, choice.accepted) == ("model", 1, ())


def test_a_run_with_both_must_be_told(run: MadeRun) -> None:
    """fin_quant has two things to ship; which one is not guessed."""
    base = factor_experiment(0, ("ZMom",))
    session = holding(run, base, model_experiment(1, run.workspace, based_on=(base,)))
    with pytest.raises(SotaError) as caught:
        choose_experiment(session)
    assert caught.value.slug == "stage-unclear"
    assert choose_experiment(session, "factor").experiment.loop == 0
    model = choose_experiment(session, "model")
    assert (model.experiment.loop, model.accepted) == (1, (base,))


def test_no_accepted_model_is_said(run: MadeRun) -> None:
    """A model log without an acceptance, and a factor log that is asked for a model."""
    rejected = replace(model_experiment(0, run.workspace), decision=False)
    for session, stage in ((holding(run, rejected), None), (run.session, "model")):
        with pytest.raises(SotaError, match="it holds") as caught:
            choose_experiment(session, stage)  # type: ignore[arg-type]
        assert caught.value.slug == "no-accepted-model"


def test_no_accepted_factor_is_said(run: MadeRun) -> None:
    """A run that accepted nothing ships nothing."""
    session = holding(run, replace(factor_experiment(0, ("A",)), decision=False))
    with pytest.raises(SotaError) as caught:
        choose_experiment(session)
    assert caught.value.slug == "no-accepted-factors"


def test_inherited_factors_are_another_runs(run: MadeRun) -> None:
    """Their workspace is not this run's; its own model ships as the model stage, unasked."""
    inherited = replace(factor_experiment(-1, ("A",)), inherited_from={"task_id": "earlier", "loop": 4})
    session = holding(run, inherited, model_experiment(0, run.workspace))
    assert choose_experiment(session).stage == "model"
    with pytest.raises(SotaError, match="earlier") as caught:
        choose_experiment(session, "factor")
    assert caught.value.slug == "factors-inherited"


def test_the_workspace_with_recorders_is_preferred(run: MadeRun, tmp_path: Path) -> None:
    """An emptied folder at the recorded place does not hide the one that was moved away."""
    choice = choose_experiment(run.session)
    assert find_workspace_of(choice, ()) == run.workspace
    moved = tmp_path / "moved"
    moved.mkdir()
    run.workspace.rename(moved / run.workspace.name)
    run.workspace.mkdir()
    assert find_workspace_of(choice, (moved,)) == moved / run.workspace.name
    assert find_workspace_of(choice, ()) == run.workspace


def test_a_workspace_that_is_gone_is_said(run: MadeRun) -> None:
    """With every place that was looked at, and what to do."""
    gone = replace(run.session.experiments[-1], workspace=PurePosixPath("/nowhere/abc"))
    choice = choose_experiment(holding(run, gone))
    with pytest.raises(SotaError, match="/nowhere/abc") as caught:
        find_workspace_of(choice, ())
    assert caught.value.slug == "weights-missing"
    assert "SOTA_WORKSPACE_ROOT" in caught.value.problems[0].hint

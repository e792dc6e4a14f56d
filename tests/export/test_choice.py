"""Which experiment of a run is shipped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.export.choice import Pick, choose_experiment, find_better, find_workspace_of
from rdagent_sota_patch.sessions.records import ExperimentRecord, Session
from tests.export.made_run import MadeRun, factor_experiment, make_run, model_experiment


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


def _with_ic(loop: int, ic: float, *, decision: bool = True) -> ExperimentRecord:
    return replace(factor_experiment(loop, (f"F{loop}",)), metrics={"IC": ic}, decision=decision)


def test_an_earlier_loop_stands_on_what_was_accepted_until_then(run: MadeRun) -> None:
    """By its loop or by a metric; factors that were accepted later are not its own."""
    session = holding(
        run, _with_ic(0, 0.02), _with_ic(1, 0.05), _with_ic(2, 0.09, decision=False), _with_ic(3, 0.03)
    )
    for pick in (Pick(loop=1), Pick(best="IC"), Pick(best="ic")):
        choice = choose_experiment(session, pick=pick)
        assert choice.experiment.loop == 1
        assert [each.loop for each in choice.accepted] == [0, 1]
    assert choose_experiment(session).experiment.loop == 3


@pytest.mark.parametrize(
    ("pick", "slug", "told"),
    [
        (Pick(loop=2), "loop-not-accepted", "accepted are the loops 0, 1"),
        (Pick(loop=9), "loop-not-accepted", "accepted are the loops 0, 1"),
        (Pick(best="Sharpe"), "metric-unknown", "Sharpe"),
        (Pick(best="ICIR"), "metric-unknown", "ICIR"),
    ],
)
def test_what_cannot_be_picked_is_told(run: MadeRun, pick: Pick, slug: str, told: str) -> None:
    """A rejected loop, one that is not there, and a metric that no accepted experiment has; nothing else is taken."""
    session = holding(run, _with_ic(0, 0.02), _with_ic(1, 0.05), _with_ic(2, 0.09, decision=False))
    with pytest.raises(SotaError, match=told) as caught:
        choose_experiment(session, "factor", pick)
    assert caught.value.slug == slug


def test_a_loop_says_its_stage(run: MadeRun) -> None:
    """In a fin_quant log, --loop settles what would otherwise be unclear."""
    base = factor_experiment(0, ("ZMom",))
    session = holding(run, base, model_experiment(1, run.workspace, based_on=(base,)))
    assert choose_experiment(session, pick=Pick(loop=1)).stage == "model"
    assert choose_experiment(session, pick=Pick(loop=0)).stage == "factor"


def test_a_better_one_by_ic_is_told(run: MadeRun) -> None:
    """Of the accepted ones alone, and only where it is better."""
    best, last = _with_ic(1, 0.05), _with_ic(3, 0.03)
    session = holding(run, _with_ic(0, 0.02), best, _with_ic(2, 0.09, decision=False), last)
    notice = find_better(session, last)
    assert notice is not None and notice.slug == "not-the-best"
    assert "loop 1 has the highest, 0.0500" in notice.message
    assert find_better(session, best) is None

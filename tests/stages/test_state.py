"""The state file, and what a resumed run may change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.state import (
    STATE_NAME,
    Plan,
    RunState,
    StageName,
    StageState,
    Wishes,
    begin_run,
    find_unfinished,
    new_log,
    read_state,
    require_home,
    revise,
    write_state,
)
from tests.stages.conftest import begin


def change(folder: Path, **values: object) -> None:
    document = json.loads((folder / STATE_NAME).read_text("utf-8"))
    (folder / STATE_NAME).write_text(json.dumps({**document, **values}), "utf-8")


def slug_of(folder: Path) -> str:
    with pytest.raises(SotaError) as raised:
        read_state(folder)
    return raised.value.slug


def test_state_survives_writing(project: Path) -> None:
    """What is written is what is read, paths and all."""
    folder = begin(duration="8h")
    state = read_state(folder).with_stage(StageName.FACTOR, StageState(log=folder / "x", done=True))
    write_state(folder, state)
    assert read_state(folder) == state
    assert json.loads((folder / STATE_NAME).read_text("utf-8"))["schema_version"] == 1


def test_folder_without_state_is_not_a_run(project: Path) -> None:
    """A log, or somebody's folder, is told from a run."""
    assert slug_of(project) == "not-a-run"
    assert slug_of(project / "none") == "not-a-run"


@pytest.mark.parametrize(
    "values",
    [{"schema_version": 2}, {"more": 1}, {"plan": {}}, {"factor": {"log": 3}}, {"plan": None}],
    ids=lambda values: next(iter(values)),
)
def test_state_of_another_form_is_refused(project: Path, values: dict[str, object]) -> None:
    """Another version's state, or a stranger's, is not guessed at."""
    folder = begin()
    change(folder, **values)
    assert slug_of(folder) == "not-a-run"


def test_damaged_state_is_refused(project: Path) -> None:
    """Half a file is not a state."""
    folder = begin()
    (folder / STATE_NAME).write_bytes((folder / STATE_NAME).read_bytes()[:40])
    assert slug_of(folder) == "not-a-run"


def test_newest_unfinished_run_is_found(project: Path) -> None:
    """Finished ones are passed over, and with none left that is said."""
    first, second, third = begin(), begin(), begin()
    write_state(third, read_state(third).with_stage(StageName.MODEL, StageState(log=third, done=True)))
    assert find_unfinished(Path("log")) == second != first
    with pytest.raises(SotaError) as raised:
        find_unfinished(project / "elsewhere")
    assert raised.value.slug == "nothing-to-resume"


def test_logs_lie_beside_the_run(project: Path) -> None:
    """So that ``latest`` finds them; one that is there already is not taken again."""
    folder = begin()
    log = new_log(folder, StageName.FACTOR)
    assert log.parent == project / "log" and log.name == folder.name.replace("-run", "-factor")
    log.mkdir()
    assert new_log(folder, StageName.FACTOR).name == f"{log.name}-2"


def test_unwritable_root_is_said(project: Path) -> None:
    """A file where the folder should go is an error with a next step."""
    (project / "log").write_text("")
    with pytest.raises(SotaError) as raised:
        begin_run(Plan(factor_loops=1, model_loops=1, alpha=True), Path("log"))
    assert raised.value.slug == "cannot-write"


def state_with(plan: Plan, *, factor: StageState | None = None, model: StageState | None = None) -> RunState:
    return RunState(
        host="here",
        project=Path.cwd(),
        plan=plan,
        factor=factor or StageState(),
        model=model or StageState(),
    )


PLAN = Plan(factor_loops=3, model_loops=2, alpha=True)


def test_same_wishes_change_nothing() -> None:
    """The same command with --resume goes on."""
    state = state_with(PLAN)
    assert revise(state, Wishes(3, 2, True)) == revise(state, Wishes()) == state


def test_more_model_loops_open_a_finished_run() -> None:
    """The log stays; only "done" is taken back."""
    state = state_with(PLAN, model=StageState(log=Path("/m"), done=True))
    revised = revise(state, Wishes(model_loops=5))
    assert (revised.plan.model_loops, revised.model) == (5, StageState(log=Path("/m")))


def test_more_factor_loops_until_the_models_begin() -> None:
    """A factor stage that accepted nothing can be asked for more; one that models stand on cannot."""
    mined = StageState(log=Path("/f"), done=True)
    assert revise(state_with(PLAN, factor=mined), Wishes(factor_loops=4)).factor == StageState(log=Path("/f"))
    with pytest.raises(SotaError) as raised:
        revise(state_with(PLAN, factor=mined, model=StageState(log=Path("/m"))), Wishes(factor_loops=4))
    assert raised.value.slug == "run-differs"


def test_all_contradictions_are_told_at_once() -> None:
    """Another switch, log and duration: three problems."""
    with pytest.raises(SotaError) as raised:
        revise(state_with(PLAN), Wishes(alpha=False, factor_log=Path("/f"), duration="1h"))
    assert [problem.slug for problem in raised.value.problems] == ["run-differs"] * 3
    assert "on when this run began, and is off now" in str(raised.value)


def test_run_of_another_folder_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RD-Agent would read another .env and keep other workspaces."""
    folder = begin()
    state = read_state(folder)
    require_home(folder, state)
    monkeypatch.chdir(project.parent)
    with pytest.raises(SotaError, match="began in") as raised:
        require_home(folder, state)
    assert raised.value.slug == "run-elsewhere"


def test_missing_log_is_refused(project: Path) -> None:
    """A finished stage's log that is not here, as of another machine's run, is not a reason to mine again."""
    folder = begin()
    state = read_state(folder).with_stage(
        StageName.FACTOR, StageState(log=Path("/of/another/host"), done=True)
    )
    with pytest.raises(SotaError, match="/of/another/host") as raised:
        require_home(folder, state)
    assert raised.value.slug == "run-elsewhere"

"""What a resumed run may change of its plan, and whether it is at home here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.stages.state import StageState

if TYPE_CHECKING:
    from rdagent_sota_patch.stages.state import RunState


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked on resuming; None leaves a thing as it was."""

    factor_loops: int | None = None
    model_loops: int | None = None
    alpha: bool | None = None
    factor_log: Path | None = None
    duration: str | None = None


def revise(state: RunState, wishes: Wishes) -> RunState:
    """The state with other numbers of loops; a finished model stage is open again when more are asked.

    Raises:
        SotaError: ``run-differs``, with all that cannot be changed any more.
    """
    plan, changes = state.plan, {}
    problems = [
        _differs(option, was, wish)
        for option, was, wish in (
            ("--alpha", plan.alpha, wishes.alpha),
            ("--factor-log", plan.factor_log, wishes.factor_log),
            ("--duration", plan.duration, wishes.duration),
        )
        if wish is not None and wish != was
    ]
    if wishes.factor_loops not in (None, plan.factor_loops):
        # The models would stand on factors that were not there when the first of them was trained.
        if state.model.log is not None or plan.factor_loops is None:
            problems.append(_differs("--factor-loops", plan.factor_loops, wishes.factor_loops))
        changes["factor_loops"] = wishes.factor_loops
    if wishes.model_loops not in (None, plan.model_loops):
        changes["model_loops"] = wishes.model_loops
    if problems:
        raise SotaError.of(problems)
    if not changes:
        return state
    opened = {
        name: StageState(log=stage.log)
        for name, stage in (("factor", state.factor), ("model", state.model))
        if f"{name}_loops" in changes
    }
    return state.model_copy(update={"plan": plan.model_copy(update=changes), **opened})


def require_home(folder: Path, state: RunState) -> None:
    """Make sure that the run can go on here, where RD-Agent finds its ``.env``, its logs and its workspaces.

    Raises:
        SotaError: ``run-elsewhere``.
    """
    if Path.cwd() != state.project:
        raise SotaError(
            "run-elsewhere",
            f"The run in {folder} began in {state.project} on {state.host}, and this is {Path.cwd()}.",
            "Go to that folder, where its .env and its workspaces are; a run cannot go on elsewhere.",
        )
    # The log of a stage that was killed early may never have come to be; of one that is done, it must be there.
    done = (stage.log for stage in (state.factor, state.model) if stage.done)
    logs = (state.plan.factor_log, *done)
    if gone := [str(log) for log in logs if log is not None and not log.exists()]:
        raise SotaError(
            "run-elsewhere",
            f"The run in {folder}, of {state.host}, needs {' and '.join(gone)}, which is not there.",
            "Put the logs back where they were, or begin a new run.",
        )


def _differs(option: str, was: object, wish: object) -> Problem:
    return Problem(
        "run-differs",
        f"{option} was {_word(was)} when this run began, and is {_word(wish)} now.",
        f"Leave {option} out to go on with the run, or leave --resume out to begin another.",
    )


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "not given" if value is None else str(value)

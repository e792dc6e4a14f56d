"""rdagent-sota-run.json, and what a resumed run may change in it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rdagent_sota_patch import __version__
from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import Problem, SotaError


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
        # The models would rest on factors that were not there when the first of them was trained.
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


STATE_NAME = "rdagent-sota-run.json"
_SUFFIX = "-run"
_Loops = Annotated[int, Field(ge=1)]


class StageName(str, Enum):
    """The two stages; each value is part of file names."""

    FACTOR = "factor"
    MODEL = "model"


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Plain):
    """What was asked.

    Attributes:
        factor_loops: Loops of the factor stage; None where ``factor_log`` replaces it.
        alpha: Whether Alpha features come beside the SOTA factors.
        factor_log: A finished factor run's log, or one of its snapshots, absolute.
        duration: Time for the factor stage, as RD-Agent's ``--all-duration`` takes it.
    """

    factor_loops: _Loops | None
    model_loops: _Loops
    alpha: bool
    factor_log: Path | None = None
    duration: str | None = None


class StageState(_Plain):
    """How far a stage is.

    Attributes:
        log: Its log folder, absolute, fixed before RD-Agent is started; None until then.
    """

    log: Path | None = None
    done: bool = False


class RunState(_Plain):
    """The whole file.

    Attributes:
        host: The machine it was written on, to say where the run is at home.
        project: The folder it was started in: RD-Agent's ``.env``, cache and workspaces are there.
    """

    schema_version: Literal[1] = 1
    written_by: str = f"rdagent-sota-patch {__version__}"
    host: str
    project: Path
    plan: Plan
    factor: StageState = StageState()
    model: StageState = StageState()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.model.done

    def stage(self, name: StageName) -> StageState:
        """One of the two stages."""
        return self.factor if name is StageName.FACTOR else self.model

    def with_stage(self, name: StageName, state: StageState) -> RunState:
        """The same with that stage's state in place of its own."""
        return self.model_copy(update={name.value: state})


def begin_run(plan: Plan, log_root: Path) -> Path:
    """Make the folder of a new run, named by the time as RD-Agent's logs are, and write its state.

    Raises:
        SotaError: ``cannot-write``.
    """
    root = log_root.absolute()
    name = datetime.now(timezone.utc).strftime("%Y-%m-%d_%H-%M-%S-%f")
    folder = root / f"{name}{_SUFFIX}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SotaError(
            "cannot-write", f"Cannot make {folder}: {error.strerror}.", "Name another folder with --log-root."
        ) from error
    write_state(folder, RunState(host=socket.gethostname(), project=Path.cwd(), plan=plan))
    return folder


def new_log(folder: Path, stage: StageName) -> Path:
    """A log folder for a stage that begins: beside the run's folder, so that ``latest`` finds it."""
    name = f"{folder.name.removesuffix(_SUFFIX)}-{stage.value}"
    log, number = folder.parent / name, 1
    while log.exists():
        number += 1
        log = folder.parent / f"{name}-{number}"
    return log


def output_file(folder: Path, stage: StageName) -> Path:
    """Where everything goes that the stage's ``rdagent`` prints."""
    return folder / f"{stage.value}.txt"


def write_state(folder: Path, state: RunState) -> None:
    """Write the state in one step.

    Raises:
        SotaError: ``cannot-write``.
    """
    write_text_atomically(folder / STATE_NAME, state.model_dump_json(indent=2) + "\n")


def read_state(folder: Path) -> RunState:
    """Read a run's state.

    Raises:
        SotaError: ``not-a-run``: there is none, or not in a form that this version knows.
    """
    path = folder / STATE_NAME
    hint = "Name the folder that rdagent-sota run said it works in; it ends in -run and lies beside the logs."
    try:
        text = path.read_bytes()
    except OSError as error:
        raise SotaError("not-a-run", f"{path} cannot be read: {error.strerror}.", hint) from None
    try:
        return RunState.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise SotaError(
            "not-a-run",
            f"{path} is not a state that rdagent-sota-patch {__version__} wrote: {place}: {first['msg']}.",
            hint,
        ) from None


def find_unfinished(log_root: Path) -> Path:
    """The folder of the newest run under ``log_root`` that is not done.

    Raises:
        SotaError: ``nothing-to-resume``, or ``not-a-run`` for a newer one that cannot be read.
    """
    found = sorted((path.parent for path in log_root.absolute().glob(f"*/{STATE_NAME}")), reverse=True)
    for folder in found:
        if not read_state(folder).done:
            return folder
    raise SotaError(
        "nothing-to-resume",
        f"None of the {len(found)} runs in {log_root.absolute()} is unfinished.",
        "Name a run's folder after --resume, or --log-root; without --resume a new run begins.",
    )

"""Factor stage, then model stage, and what they left; which rdagent runs them."""

from __future__ import annotations

import math
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.environment import ENV_FILE, file_wins, fix_settings, read_env_file
from rdagent_sota_patch.errors import HostError, SettingsError, SotaError, SourceError
from rdagent_sota_patch.sessions.locate import locate_sota, summarize
from rdagent_sota_patch.sessions.snapshots import read_session
from rdagent_sota_patch.stages.lock import hold_lock, require_settled
from rdagent_sota_patch.stages.progress import experiments_of, skip_reasons
from rdagent_sota_patch.stages.stage import Means, Stage
from rdagent_sota_patch.stages.state import (
    StageName,
    Wishes,
    output_file,
    read_state,
    require_home,
    revise,
    write_state,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session
    from rdagent_sota_patch.stages.progress import Progress
    from rdagent_sota_patch.stages.state import RunState, StageState


def scripts_folder() -> Path:
    """Where this environment keeps its programs."""
    return Path(sysconfig.get_path("scripts"))


def find_rdagent() -> Path:
    """The ``rdagent`` program beside the running interpreter: the one that has the plugin.

    Raises:
        HostError: ``host-missing``.
    """
    for folder in (scripts_folder(), Path(sys.executable).parent):
        program = folder / "rdagent"
        if program.is_file():
            return program
    raise HostError(
        "host-missing",
        f"There is no rdagent program in {scripts_folder()}.",
        "Install rdagent-sota-patch into the environment that runs rdagent; for a tested pair, "
        "pip install 'rdagent-sota-patch[demo]'.",
    )


_NO_REASON = "no reason in its output"


@dataclass(frozen=True, slots=True, eq=False)
class StageOutcome:
    """What a stage left.

    Attributes:
        experiments: Its loops with a result, in order.
        skipped: Loops that ended without one, and why.
    """

    session: Session
    experiments: tuple[ExperimentRecord, ...]
    skipped: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """A finished run.

    Attributes:
        sota: The factor stage's own result, which the models are to be compared with.
    """

    folder: Path
    state: RunState
    factor: StageOutcome
    sota: ExperimentRecord
    model: StageOutcome


def run_both(
    folder: Path,
    *,
    wishes: Wishes | None = None,
    observe: Callable[[Progress], None] = lambda _: None,
    rdagent: Sequence[str] | None = None,
) -> Outcome:
    """Bring the run in ``folder`` to its end from wherever it is; call again after anything that stopped it.

    Args:
        wishes: What the run is asked for now, where that differs from its plan.
        observe: Called with each look at a stage's progress.
        rdagent: The program; this environment's own when not given.

    Raises:
        SettingsError: ``env-file-wins``.
        SotaError: ``not-a-run``, ``run-in-use``, ``run-elsewhere``, ``run-differs``, ``log-being-written``,
            ``stage-failed``, ``sota-not-used`` or ``no-model-result``.
        SourceError: ``no-accepted-factors``; also as `read_session`.
    """
    require_log_of_own()
    folder = folder.absolute()
    read_state(folder)  # Before the lock, which would leave its file in a folder that is not a run's.
    program = tuple(rdagent) if rdagent is not None else (str(find_rdagent()),)
    with hold_lock(folder) as lock:
        state = read_state(folder)
        require_home(folder, state)
        revised = revise(state, wishes or Wishes())
        if revised != state:
            write_state(folder, revised)
        return _Run(folder, revised, Means(program, observe, lock)).finish()


def require_log_of_own() -> None:
    """Make sure that each stage can be given its log folder.

    Raises:
        SettingsError: RD-Agent would take another one from ``.env``.
    """
    name = "LOG_TRACE_PATH"
    # RD-Agent takes the name in any case.
    named = {key.upper(): value for key, value in read_env_file().items()}
    if file_wins() and named.get(name):
        raise SettingsError(
            "env-file-wins",
            f"{ENV_FILE.absolute()} sets {name} to {named[name]}, and this RD-Agent loads that file over the "
            "environment, so that neither stage can be given a log folder of its own.",
            f"Take {name} out of .env for a run of both stages.",
        )


class _Run:
    def __init__(self, folder: Path, state: RunState, means: Means) -> None:
        self._folder = folder
        self._state = state
        self._means = means

    def finish(self) -> Outcome:
        plan = self._state.plan
        if plan.factor_log is not None:
            source = plan.factor_log
            if source.is_dir() and self._state.model.log is None:
                require_settled(source)
        else:
            assert plan.factor_loops is not None
            source = self._run(StageName.FACTOR, plan.factor_loops, {}, plan.duration)
        factor = self._outcome(StageName.FACTOR, read_session(source))
        sota = self._require_accepted(factor)
        fed = {
            "LOAD_SOTA_FROM_LOG": "true",
            "SOTA_LOG_PATH": str(source),
            "USE_ALPHA_FACTORS": "true" if plan.alpha else "false",
            "LOAD_SOTA_FROM_WORKSPACE": "false",
            "LOAD_SOTA_FACTORS": "false",
            # With it off, a model stage that cannot have the factors would go on without them.
            "SOTA_STRICT": "true",
        }
        # Where RD-Agent loads .env over the environment, the user's file would undo them.
        fix_settings(fed, **{name.lower(): value for name, value in fed.items()})
        log = self._run(StageName.MODEL, plan.model_loops, fed)
        model = self._outcome(StageName.MODEL, read_session(log))
        self._require_fed(model)
        return Outcome(self._folder, self._state, factor, sota, model)

    def _run(
        self, name: StageName, loops: int, variables: dict[str, str], duration: str | None = None
    ) -> Path:
        def keep(state: StageState) -> None:
            self._state = self._state.with_stage(name, state)
            write_state(self._folder, self._state)

        state = Stage(name, self._folder, loops, variables, duration).run(
            self._state.stage(name), self._means, keep
        )
        assert state.log is not None
        return state.log

    def _outcome(self, name: StageName, session: Session) -> StageOutcome:
        reasons = skip_reasons(output_file(self._folder, name))
        experiments = experiments_of(session, name)
        return StageOutcome(
            session,
            tuple(one for one in experiments if one.metrics),
            tuple((one.loop, reasons.get(one.loop, _NO_REASON)) for one in experiments if not one.metrics),
        )

    def _require_accepted(self, factor: StageOutcome) -> ExperimentRecord:
        try:
            return locate_sota(factor.session)
        except SourceError as error:
            if self._state.plan.factor_log is not None:
                raise
            raise SourceError(
                error.slug,
                f"The factor stage accepted nothing, so there is nothing to build models on: its log "
                f"{factor.session.log} holds {summarize(factor.session)}.{_say_skipped(factor)}",
                f"rdagent-sota inspect {factor.session.log} shows its loops. To mine on, ask for more: "
                f"rdagent-sota run --resume {self._folder} --factor-loops N",
            ) from None

    def _require_fed(self, model: StageOutcome) -> None:
        if not model.experiments:
            raise SotaError(
                "no-model-result",
                f"No loop of the model stage came to a result.{_say_skipped(model)}",
                f"Its output is in {output_file(self._folder, StageName.MODEL)}. To go on with more loops: "
                f"rdagent-sota run --resume {self._folder} --model-loops N",
            )
        if unfed := [str(one.loop) for one in model.experiments if one.sota_source is None]:
            raise SotaError(
                "sota-not-used",
                f"The models of loops {', '.join(unfed)} in {model.session.log} were not trained on the SOTA "
                "factors: the plugin was not at work in their rdagent.",
                "rdagent-sota doctor says whether it is active.",
            )


def best_model(outcome: Outcome) -> ExperimentRecord:
    """The model with the highest IC; one without an IC comes last."""
    return max(outcome.model.experiments, key=lambda one: _rank(one.metrics.get("IC", math.nan)))


def _rank(ic: float) -> float:
    return -math.inf if math.isnan(ic) else ic


def _say_skipped(stage: StageOutcome) -> str:
    return "".join(f" Loop {loop} was skipped: {reason}" for loop, reason in stage.skipped)

"""Every trial that led to a winner: the experiments of its run and of the run that its factors come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.mlruns.backtest import Backtest, read_backtest
from rdagent_sota_patch.mlruns.recorder import parse_hint
from rdagent_sota_patch.sealing.seen import find_seen_days
from rdagent_sota_patch.sessions.records import ExperimentKind
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, is_index, read_session
from rdagent_sota_patch.sessions.workspaces import find_workspace_holding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

RECORDERS = "mlruns"
Status = Literal["accepted", "rejected", "failed", "cached", "inherited"]


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One experiment, or one loop that ended without one.

    Attributes:
        run: Id of the run it was tried in.
        loop: There; for one that was inherited, in the run that it comes from.
        kind: ``factor`` or ``model``; ``other`` for a loop that left nothing.
        status: ``failed``: no result. ``cached``: RD-Agent took an earlier trial's result over, workspace and all.
        name: Its factors' or its model's.
        accepted: Whether the run accepted it, whatever its status.
        backtest: What it left, day by day; each part may be missing.
        seed_test: What the run found where it held its acceptance to the noise of seeds, in JSON's types.
    """

    run: str
    loop: int
    kind: str
    status: Status
    name: str
    accepted: bool
    backtest: Backtest
    seed_test: Mapping[str, Any] | None = None

    @property
    def excess(self) -> pd.Series[float] | None:
        """Daily strategy less benchmark less cost, where all days have it."""
        excess = self.backtest.excess
        return excess if excess is not None and not excess.hasnans and len(excess) else None

    @property
    def why_without_returns(self) -> str | None:
        """Why `excess` is None."""
        if self.excess is not None:
            return None
        reasons = [text for name, text in self.backtest.missing.items() if name not in ("ic", "rank_ic")]
        return reasons[0] if reasons else "its returns have days without a number"


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """All trials, oldest run first.

    Attributes:
        winner: The last accepted trial of the last run that was named: what `export` would ship. None where it accepted
            none.
        problems: What is missing from the count, and why.
    """

    trials: tuple[Trial, ...]
    winner: Trial | None
    problems: tuple[Problem, ...]


def gather_trials(sessions: Sequence[Session], roots: Sequence[Path]) -> Ledger:
    """The trials of some runs and of those that their factors come from, as far as the logs say and are there.

    Args:
        sessions: The runs, the winner's last.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.

    Raises:
        SotaError: ``sealed-day-seen``, for each file of a sealed run that shows a sealed day.
    """
    problems: list[Problem] = []
    runs = _with_sources(sessions, problems)
    seal_problems = [problem for run in runs for problem in find_seen_days(run, roots)]
    if broken := [problem for problem in seal_problems if problem.slug == "sealed-day-seen"]:
        raise SotaError.of(broken)
    problems += seal_problems
    names = {run.task_id for run in runs}
    trials: list[Trial] = []
    winners: dict[str, Trial] = {}
    inherited: set[tuple[str, int]] = set()
    for run in runs:
        seen: set[str] = set()
        for experiment in run.experiments:
            origin = experiment.inherited_from
            if origin is not None:
                key = (str(origin.get("task_id")), int(origin.get("loop", -1)))
                if key[0] in names or key in inherited:
                    # Counted where it was tried.
                    continue
                inherited.add(key)
            trial = _trial(run, experiment, roots, seen)
            trials.append(trial)
            if experiment.accepted_here and experiment.kind is shipped_kind(run):
                winners[run.task_id] = trial
        trials += [
            _lost(run.task_id, loop, "the loop ended without an experiment") for loop in _failed_loops(run)
        ]
    for trial in trials:
        if reason := trial.why_without_returns:
            problems.append(
                Problem("trial-without-returns", f"{trial.run}, loop {trial.loop} ({trial.name}): {reason}.")
            )
    return Ledger(tuple(trials), winners.get(sessions[-1].task_id), tuple(problems))


def shipped_kind(run: Session) -> ExperimentKind:
    """Of which kind the experiment is that ``export`` ships by itself."""
    return ExperimentKind.MODEL if run.accepted(ExperimentKind.MODEL) else ExperimentKind.FACTOR


def _with_sources(sessions: Sequence[Session], problems: list[Problem]) -> list[Session]:
    """The runs, each after the one that its factors come from."""
    runs: dict[Path, Session] = {}

    def add(session: Session) -> None:
        if session.log.resolve() in runs:
            return
        # Kept now, so that two logs that name each other end.
        runs[session.log.resolve()] = session
        for kind, path in dict.fromkeys(_sources(session)):
            if kind != "log":
                problems.append(
                    Problem(
                        "source-not-counted",
                        f"The factors of {session.log} come from {path}: what was tried to find them is not counted.",
                        "Name that run's log as well.",
                    )
                )
                continue
            place = Path(path).resolve()
            if any(log == place or log in place.parents for log in runs):
                continue
            try:
                add(read_session(Path(path)))
            except SotaError as error:
                problems.append(
                    Problem(
                        "source-not-counted",
                        f"The factors of {session.log} come from {path}, which cannot be read: "
                        f"{error.problems[0].message} What was tried there is not counted.",
                        "Name that run's log as well, where it is now.",
                    )
                )

    for session in sessions:
        add(session)
    last = sessions[-1].log.resolve()
    return [*(run for log, run in runs.items() if log != last), runs[last]]


def _sources(session: Session) -> Iterator[tuple[str, str]]:
    for experiment in session.experiments:
        source = (experiment.sota_source or {}).get("source")
        if isinstance(source, dict) and isinstance(source.get("path"), str):
            yield str(source.get("kind")), source["path"]


def _trial(run: Session, experiment: ExperimentRecord, roots: Sequence[Path], seen: set[str]) -> Trial:
    names = [factor.name for factor in experiment.factors]
    name = experiment.model.name if experiment.model is not None else ", ".join(names)
    recorded = str(experiment.workspace) if experiment.workspace is not None else ""
    status: Status = "accepted" if experiment.decision else "rejected"
    loop = experiment.loop
    if experiment.inherited_from is not None:
        status, loop = "inherited", int(experiment.inherited_from.get("loop", loop))
    elif recorded and recorded in seen:
        status = "cached"
    elif not experiment.metrics:
        status = "failed"
    seen.add(recorded)
    return Trial(
        run=run.task_id,
        loop=loop,
        kind=experiment.kind.value,
        status=status,
        name=name or "no name",
        accepted=bool(experiment.decision),
        backtest=_backtest(run, experiment, roots),
        seed_test=experiment.seed_test,
    )


def _backtest(run: Session, experiment: ExperimentRecord, roots: Sequence[Path]) -> Backtest:
    if not experiment.metrics:
        return Backtest.without("it has no result")
    if experiment.workspace is None:
        return Backtest.without("the session names no workspace")
    workspace = find_workspace_holding(experiment.workspace, run.log, roots, RECORDERS)
    if workspace is None:
        return Backtest.without(f"its workspace, recorded as {experiment.workspace}, is gone")
    try:
        hint = None if experiment.artifacts is None else parse_hint(experiment.artifacts)
    except SotaError as error:
        return Backtest.without(error.problems[0].message)
    return read_backtest(workspace, hint)


def _failed_loops(run: Session) -> list[int]:
    """Loops before the last recorded one that wrote snapshots and left no experiment: RD-Agent skipped them."""
    recorded = {experiment.loop for experiment in run.experiments if experiment.inherited_from is None}
    try:
        loops = {int(each.name) for each in (run.log / SESSION_FOLDER).iterdir() if is_index(each.name)}
    except OSError:
        # One snapshot was named, and the log's folder is not there.
        return []
    return sorted(loop for loop in loops - recorded if loop < max(recorded, default=-1))


def _lost(run: str, loop: int, reason: str) -> Trial:
    return Trial(run, loop, ExperimentKind.OTHER.value, "failed", "no name", False, Backtest.without(reason))

"""Which experiment of a run is shipped, which factors it builds on, and where its workspace is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.sessions.locate import locate_sota, summarize
from rdagent_sota_patch.sessions.records import ExperimentKind
from rdagent_sota_patch.sessions.workspaces import is_folder, workspace_candidates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

Stage = Literal["factor", "model"]

RECORDERS = "mlruns"
"""The folder of MLflow's file store in a workspace."""


METRICS = {
    "ic": "IC",
    "icir": "ICIR",
    "rank ic": "Rank IC",
    "rank icir": "Rank ICIR",
    "annualized return": "1day.excess_return_with_cost.annualized_return",
    "information ratio": "1day.excess_return_with_cost.information_ratio",
    "max drawdown": "1day.excess_return_with_cost.max_drawdown",
}
"""Qlib's names of the metrics that an export may choose by. Of each the largest is the best: a drawdown is negative."""


@dataclass(frozen=True, slots=True)
class Pick:
    """Which of a stage's accepted experiments; the last one where neither is given.

    Attributes:
        loop: By its loop.
        best: By the largest value of this metric, a key of `METRICS`.
    """

    loop: int | None = None
    best: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What is shipped of a run.

    Attributes:
        experiment: The accepted one of the stage that was picked.
        accepted: The accepted factor experiments of this run that it builds on, oldest first; in the factor stage
            itself among them.
    """

    session: Session
    stage: Stage
    experiment: ExperimentRecord
    accepted: tuple[ExperimentRecord, ...]


def choose_experiment(session: Session, stage: Stage | None = None, pick: Pick | None = None) -> Choice:
    """The experiment to ship.

    Args:
        session: The run.
        stage: Without one, the only stage of which the run has accepted an experiment of its own, or the picked loop's.
        pick: Another one than the last accepted.

    Raises:
        BundleError: ``stage-unclear``, ``factors-inherited``, ``no-accepted-model``, ``loop-not-accepted`` or
            ``metric-unknown``.
        SourceError: ``no-accepted-factors``.
    """
    factor, model = session.accepted(ExperimentKind.FACTOR), session.accepted(ExperimentKind.MODEL)
    pick = pick or Pick()
    if stage is None:
        stage = _stage_of_loop(session, pick.loop) or _only_stage(session, factor, model)
    if stage == "model":
        if not model:
            raise BundleError(
                "no-accepted-model",
                f"No model experiment was accepted in session {session.log}; it holds {summarize(session)}.",
                "Name the log of a run that accepted one; rdagent-sota inspect LOG shows what a log holds.",
            )
        picked = _pick(session, stage, model, pick)
        return Choice(session, stage, picked, tuple(_factors_of_model(picked)))
    if not factor:
        origin = locate_sota(session).inherited_from or {}
        raise BundleError(
            "factors-inherited",
            f"{session.log} has no accepted factor experiment of its own: its factors are those of "
            f"{origin.get('task_id')}.",
            "Export that run's log, or this one's model with --stage model.",
        )
    picked = _pick(session, stage, factor, pick)
    return Choice(session, stage, picked, factor[: factor.index(picked) + 1])


def find_better(session: Session, experiment: ExperimentRecord) -> Problem | None:
    """That another accepted experiment of the same kind has a higher IC than this one; None where it is the best."""
    mine = experiment.metrics.get("IC")
    others = [each for each in session.accepted(experiment.kind) if "IC" in each.metrics]
    best = max(others, key=lambda each: each.metrics["IC"], default=None)
    if best is None or best is experiment or mine is None or best.metrics["IC"] <= mine:
        return None
    return Problem(
        "not-the-best",
        f"Loop {experiment.loop} has an IC of {mine:.4f}; of the accepted {experiment.kind.value} experiments, loop "
        f"{best.loop} has the highest, {best.metrics['IC']:.4f}.",
        f"rdagent-sota export with --best IC, or with --loop {best.loop}, ships that one.",
    )


def _stage_of_loop(session: Session, loop: int | None) -> Stage | None:
    kinds = {each.kind for each in session.experiments if each.loop == loop and each.inherited_from is None}
    if len(kinds) != 1:
        return None
    return "model" if kinds == {ExperimentKind.MODEL} else "factor"


def _pick(
    session: Session, stage: Stage, accepted: Sequence[ExperimentRecord], pick: Pick
) -> ExperimentRecord:
    if pick.loop is not None:
        for experiment in accepted:
            if experiment.loop == pick.loop:
                return experiment
        loops = ", ".join(str(each.loop) for each in accepted)
        raise BundleError(
            "loop-not-accepted",
            f"Loop {pick.loop} of {session.log} is not an accepted {stage} experiment; accepted are the loops {loops}.",
            "Name one of these with --loop; rdagent-sota inspect LOG shows what each of them is worth.",
        )
    if pick.best is None:
        return accepted[-1]
    key = METRICS.get(pick.best.lower().replace("_", " "))
    measured = [] if key is None else [each for each in accepted if key in each.metrics]
    if key is None or not measured:
        raise BundleError(
            "metric-unknown",
            f"No accepted {stage} experiment of {session.log} has the metric {pick.best!r}.",
            f"--best takes: {', '.join(METRICS)}.",
        )
    # Of equal ones the last, as without the option.
    return max(reversed(measured), key=lambda each: each.metrics[key])


def find_workspace_of(choice: Choice, roots: Sequence[Path]) -> Path:
    """The shipped experiment's workspace on this machine, by what the session says; nothing is searched.

    Args:
        choice: What is shipped.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.

    Raises:
        BundleError: ``weights-missing`` when it is gone.
    """
    experiment, log = choice.experiment, choice.session.log
    places = () if experiment.workspace is None else workspace_candidates(experiment.workspace, log, roots)
    for holds_recorders in (True, False):
        for place in places:
            if is_folder(place / RECORDERS if holds_recorders else place):
                return place
    tried = "\n".join(f"    {place}" for place in places) or "    (the session names no workspace)"
    lost = "the model, its fitted processors and its predictions"
    if experiment.embedded_weights is not None:
        lost = "the fitted processors and the predictions of the model, whose weights alone the session holds"
    raise BundleError(
        "weights-missing",
        f"The workspace of loop {experiment.loop} of {log} is gone, and with it {lost}. Looked for it in:\n{tried}",
        "If the workspaces were moved, set SOTA_WORKSPACE_ROOT to the folder that holds them. --factors-only exports "
        "the factors alone.",
    )


def _only_stage(
    session: Session, factor: Sequence[ExperimentRecord], model: Sequence[ExperimentRecord]
) -> Stage:
    if factor and model:
        raise BundleError(
            "stage-unclear",
            f"{session.log} has accepted factor experiments and model experiments.",
            "Say which: --stage factor for the model of the last accepted factor experiment's back-test, --stage model "
            "for the last accepted model experiment.",
        )
    if model or any(experiment.kind is ExperimentKind.MODEL for experiment in session.experiments):
        return "factor" if factor else "model"
    return "factor"


def _factors_of_model(model: ExperimentRecord) -> list[ExperimentRecord]:
    # What was inherited, the model was given as SOTA factors: `sota_source` describes them.
    return [base for base in model.based_on if base.inherited_from is None]

"""Which experiment of a run is shipped, on which factors it stands, and where its workspace is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rdagent_sota_patch.errors import BundleError
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


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What is shipped of a run.

    Attributes:
        experiment: The last accepted one of the stage.
        accepted: The accepted factor experiments of this run that it stands on, oldest first; in the factor stage
            itself among them.
    """

    session: Session
    stage: Stage
    experiment: ExperimentRecord
    accepted: tuple[ExperimentRecord, ...]


def choose_experiment(session: Session, stage: Stage | None = None) -> Choice:
    """The experiment to ship.

    Args:
        session: The run.
        stage: Without one, the only stage of which the run has accepted an experiment of its own.

    Raises:
        BundleError: ``stage-unclear``, ``factors-inherited`` or ``no-accepted-model``.
        SourceError: ``no-accepted-factors``.
    """
    factor, model = session.accepted(ExperimentKind.FACTOR), session.accepted(ExperimentKind.MODEL)
    if stage is None:
        stage = _only_stage(session, factor, model)
    if stage == "model":
        if not model:
            raise BundleError(
                "no-accepted-model",
                f"No model experiment was accepted in session {session.log}; it holds {summarize(session)}.",
                "Name the log of a run that accepted one; rdagent-sota inspect LOG shows what a log holds.",
            )
        return Choice(session, stage, model[-1], tuple(_factors_of_model(model[-1])))
    if not factor:
        origin = locate_sota(session).inherited_from or {}
        raise BundleError(
            "factors-inherited",
            f"{session.log} has no accepted factor experiment of its own: its factors are those of "
            f"{origin.get('task_id')}.",
            "Export that run's log, or this one's model with --stage model.",
        )
    return Choice(session, stage, factor[-1], factor)


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

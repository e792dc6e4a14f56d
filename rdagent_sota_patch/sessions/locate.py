"""Choose a session's SOTA experiment, or say what the session holds instead."""

from __future__ import annotations

from collections import Counter

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Session


def locate_sota(session: Session) -> ExperimentRecord:
    """The last accepted factor experiment; its table holds every factor accepted before it.

    Raises:
        SourceError: ``no-accepted-factors``, saying what the session does hold.
    """
    if session.sota is not None:
        return session.sota
    holds = summarize(session)
    if any(experiment.kind is ExperimentKind.FACTOR for experiment in session.experiments):
        message = f"No factor experiment was accepted in session {session.log}; it holds {holds}."
    else:
        message = f"No QlibFactorExperiment found in session {session.log}; it holds {holds}."
    raise SourceError(
        "no-accepted-factors",
        message,
        "Name the log of a run that accepted factors; rdagent-sota inspect LOG shows what one holds.",
    )


def summarize(session: Session) -> str:
    """What a session holds in words, such as "3 model experiments, 2 rejected factor experiments"."""
    counts = Counter(_name(experiment) for experiment in session.experiments)
    if not counts:
        return "no finished loop"
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())


def _name(experiment: ExperimentRecord) -> str:
    if experiment.kind is ExperimentKind.FACTOR:
        return f"{'accepted' if experiment.decision else 'rejected'} factor experiment"
    if experiment.kind is ExperimentKind.MODEL:
        return "model experiment"
    name = experiment.class_path.rpartition(":")[2]
    return f"other experiment ({name})" if name else "loop without an experiment"

"""Whether a back-test was made on exactly the features that are recorded for it, by what its recorder holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.mlruns.recorder import find_recorder
from rdagent_sota_patch.mlruns.trained import find_contradictions, read_trained, trained_alpha

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from rdagent_sota_patch.mlruns.trained import TrainedModel

_OTHER_FORMS = frozenset({"model-form-unknown", "processor-unknown", "live-extra-missing"})
"""Slugs of what is not damage: a template or a machine that is not like RD-Agent's own."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the fitted processors and the weights of one back-test say about its features.

    Attributes:
        status: ``proven``: they are exactly the recorded ones. ``differs``: they are not. ``unjudged``: unknown.
        run_id: MLflow's name of the run that was looked at; None without one.
        columns: The model's input in its true order; empty where that is not known.
        reason: What differs, or why nothing can be said; None for ``proven``.
        expected: Whether it should have been possible to judge: all is as RD-Agent's templates make it.
    """

    status: Literal["proven", "differs", "unjudged"]
    run_id: str | None = None
    columns: tuple[str, ...] = ()
    reason: str | None = None
    expected: bool = True


def prove_features(
    workspace: Path,
    features: Sequence[str],
    alpha: Mapping[str, str] | None,
    since: datetime | None = None,
) -> Proof:
    """Hold recorded features against the fitted processors and the weights of the newest back-test in a workspace.

    Args:
        workspace: The experiment's; RD-Agent may have trained in it more than once.
        features: Names of all features that are recorded.
        alpha: The Alpha features among them, name to Qlib expression; None where the mined factors alone are recorded,
            and the model may have any Alpha features besides.
        since: When the back-test began; a run that ended before is another one's. None takes any.
    """
    run_id = None
    try:
        recorder = find_recorder(workspace)
        run_id = recorder.run_id
        if since is not None and recorder.ended_at < since:
            return Proof("unjudged", reason=f"{workspace / 'mlruns'} has no finished run of this back-test")
        trained = read_trained(recorder, whole=False)
    except SotaError as error:
        problem = error.problems[0]
        return Proof("unjudged", run_id, reason=problem.message, expected=problem.slug not in _OTHER_FORMS)
    candidates = trained.candidates or (trained,)
    possible = [each for each in candidates if not find_contradictions(each)]
    if not possible:
        return Proof("differs", run_id, reason="; ".join(find_contradictions(candidates[0])))
    findings = [_differences(each, features, alpha) for each in possible]
    known = {each.columns for each in possible}
    columns = possible[0].columns if len(known) == 1 else ()
    if all(findings):
        return Proof("differs", run_id, columns, "; ".join(findings[0]))
    if any(findings):
        reason = f"how {trained.unknown_loader} made the model's input cannot be told without its market data"
        return Proof("unjudged", run_id, columns, reason, expected=False)
    return Proof("proven", run_id, columns)


def _differences(
    trained: TrainedModel, features: Sequence[str], alpha: Mapping[str, str] | None
) -> list[str]:
    """What a model's input is and the record does not say, or the other way round."""
    columns = set(trained.mined if alpha is None else trained.columns)
    missing, added = set(features) - columns, columns - set(features)
    found = []
    if missing:
        found.append(f"the model does not have {_listed(missing)}")
    if added:
        found.append(f"the model has {_listed(added)} as well")
    if alpha is None:
        return found
    for name, expression in ((feature.name, feature.expression) for feature in trained_alpha(trained)):
        if name in features and alpha.get(name) != expression:
            recorded = repr(alpha[name]) if name in alpha else "a mined factor"
            found.append(f"the model's {name} is {expression!r}, and recorded is {recorded}")
    found += [
        f"the model's {name} is the factor table's, and recorded is an Alpha feature"
        for name in sorted(set(trained.mined) & alpha.keys())
    ]
    return found


def _listed(names: set[str], shown: int = 10) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(sorted(names)[:shown]) + rest

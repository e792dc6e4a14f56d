"""What a session says, as frozen objects: the typed view that the rest of the package works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Signature(str, Enum):
    """What is known about who wrote a snapshot (``rdagent/core/serialization.py``)."""

    VERIFIED = "verified"
    KEY_NOT_HERE = "signed, key not here"
    UNSIGNED = "unsigned"
    ALTERED = "altered"


class ExperimentKind(str, Enum):
    """What an experiment was about, by its class."""

    FACTOR = "factor"
    MODEL = "model"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Factor:
    """One mined factor of an experiment.

    Attributes:
        implemented: Whether RD-Agent's coder accepted the code (``prop_dev_feedback``); only such a
            factor enters the experiment's table.
        code: Text of ``factor.py``; None when the session does not hold it.
    """

    name: str
    description: str = ""
    formulation: str = ""
    variables: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    code: str | None = None
    implemented: bool = True


@dataclass(frozen=True, slots=True)
class Model:
    """The model of a model experiment."""

    name: str
    model_type: str = ""
    description: str = ""
    formulation: str = ""
    architecture: str = ""
    hyperparameters: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    training_hyperparameters: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    code: str | None = None


@dataclass(frozen=True, slots=True)
class GivenFactors:
    """Where the SOTA factors of an experiment come from, as far as the plugin recorded it.

    Attributes:
        kind: ``log``, ``workspace`` or ``file``.
        path: What the settings named, on the machine of the run.
        task_id: The run that mined them; None where only a path is known.
        loop: That run's accepted loop.
        factors: Name and proposing loop of each, in the order of the table.
    """

    kind: str
    path: str
    task_id: str | None
    loop: int | None
    factors: tuple[tuple[str, int | None], ...]

    @property
    def source(self) -> str:
        """The run's id, else the path."""
        return self.task_id or self.path or self.kind


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentRecord:
    """One experiment of a run, with its feedback where it has one.

    Attributes:
        loop: RD-Agent's loop index (``trace.idx2loop_id``), or the position in the history without it;
            -1 for an experiment outside the history.
        decision: ``feedback.decision``; None for an experiment that is only built upon.
        reason: Why it was accepted or rejected, from its feedback.
        metrics: Qlib's metrics by name, as in ``qlib_res.csv``; empty when there is no result.
        workspace: The experiment's workspace as the writing machine spelled it.
        based_on: The factor experiments this one was built on, oldest first. Placeholders without tasks
            are left out, save those with ``base_feature_codes``, which RD-Agent runs as well.
        base_features: Alpha name to Qlib expression; empty where the release does not record it (0.8.0).
        base_feature_codes: File name to code of the user's own base features.
        sota_source: What the plugin recorded about the SOTA factors used, in JSON's types; empty where it is there and
            cannot be read.
        artifacts: What the plugin recorded about the weights of its back-test, as plain data.
        embedded_weights: The weights themselves, where the session keeps them; a pickle, never loaded here.
        class_path: The experiment's class as ``module:name``; tells apart what is ``OTHER``.
        proposal: What else the hypothesis says, by its attributes in ``rdagent/core/proposal.py``.
        verdict: What else the feedback says, likewise.
        stdout: The training log that RD-Agent shows the language model.
        inherited_from: Set by the plugin where the experiment is of an earlier run's history
            (``SOTA_INHERIT_TRACE``): ``task_id`` and ``loop`` there. Its ``loop`` here is negative.
        seed_test: What the plugin found where an acceptance was held to the noise of seeds (``SOTA_ACCEPT_SEEDS``), in
            JSON's types.
        unread: What the session holds of this experiment in a form that is not known, one line each.
    """

    loop: int
    kind: ExperimentKind
    decision: bool | None = None
    hypothesis: str = ""
    reason: str = ""
    factors: tuple[Factor, ...] = ()
    model: Model | None = None
    metrics: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    workspace: PurePath | None = None
    based_on: tuple[ExperimentRecord, ...] = ()
    base_features: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    base_feature_codes: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    sota_source: Mapping[str, Any] | None = None
    artifacts: Mapping[str, Any] | None = None
    embedded_weights: bytes | None = field(default=None, repr=False)
    class_path: str = ""
    proposal: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    verdict: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    stdout: str = ""
    inherited_from: Mapping[str, Any] | None = None
    seed_test: Mapping[str, Any] | None = None
    unread: tuple[str, ...] = ()

    @property
    def accepted_here(self) -> bool:
        """Whether the run itself accepted it; one that was inherited is another run's."""
        return bool(self.decision) and self.inherited_from is None

    @property
    def given(self) -> GivenFactors | None:
        """The SOTA factors that it was given, from ``sota_source``; None for none, or where that does not say."""
        record = self.sota_source or {}
        source, factors = record.get("source"), record.get("factors")
        if not isinstance(source, dict) or not isinstance(factors, list):
            return None
        return GivenFactors(
            kind=_text(source.get("kind")),
            path=_text(source.get("path")),
            task_id=_text(source.get("task_id")) or None,
            loop=_index(source.get("loop")),
            factors=tuple(
                (_text(each.get("name")), _index(each.get("loop")))
                for each in factors
                if isinstance(each, dict)
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """One snapshot of a run, read safely.

    Attributes:
        log: The run's log folder, which holds ``__session__``.
        snapshot: The file that was read.
        loop_class: Class of the loop that was saved, such as ``FactorRDLoop``.
        experiments: The history (``trace.hist``), oldest first.
        skipped: Snapshots passed over on the way to this one, with the reason.
        ended: When the last step before the snapshot ended, by the log itself; None where it does not say.
    """

    log: Path
    snapshot: Path
    signature: Signature
    loop_class: str
    experiments: tuple[ExperimentRecord, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    ended: datetime | None = None

    @property
    def task_id(self) -> str:
        """The run's id: the name of its log folder."""
        return self.log.name

    @property
    def sota(self) -> ExperimentRecord | None:
        """The last accepted factor experiment, whose table holds every factor accepted before it."""
        for experiment in reversed(self.experiments):
            if experiment.kind is ExperimentKind.FACTOR and experiment.decision:
                return experiment
        return None

    def accepted(self, kind: ExperimentKind) -> tuple[ExperimentRecord, ...]:
        """The experiments of one kind that the run itself accepted, oldest first."""
        return tuple(each for each in self.experiments if each.kind is kind and each.accepted_here)

    @property
    def given(self) -> GivenFactors | None:
        """The SOTA factors of another source that its last loop which was given any was given."""
        found = (each.given for each in reversed(self.experiments) if each.inherited_from is None)
        return next(filter(None, found), None)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _index(value: object) -> int | None:
    return value if type(value) is int else None

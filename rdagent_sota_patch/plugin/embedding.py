"""Which weights an experiment was back-tested with, recorded; the last accepted ones kept in the session.

The record (`model_artifacts`) is plain data, so that a session loads in an RD-Agent without this package. It is made
when a loop's snapshot is written: in the run's own process, after the runner is done, and after RD-Agent's run cache
has kept what it keeps. A result taken from that cache has no recorder in its workspace, and so gets no record.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent.core.experiment import FBWorkspace, Task
from rdagent.log import rdagent_logger as logger

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.mlruns.recorder import Recorder, find_recorder, measure
from rdagent_sota_patch.plugin.inheritance import is_inherited
from rdagent_sota_patch.sessions.trace import EMBEDDED_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

RECORD = "model_artifacts"
"""The attribute of an experiment."""

SCHEMA_VERSION = 1


def record_artifacts(experiment: Any) -> None:
    """Set `model_artifacts` on an experiment that was back-tested: its recorder, and the weights' size and SHA-256.

    One that has a record keeps it. Where no weights can be found, there is a warning and no record: no back-test is
    lost for it.
    """
    if getattr(experiment, RECORD, None) is not None:
        return
    workspace = Path(experiment.experiment_workspace.workspace_path)
    try:
        recorder = find_recorder(workspace)
        record = _describe(recorder)
    except BundleError as error:
        why = error.problems[0].message
    except OSError as error:
        why = f"{workspace} cannot be read ({error.strerror or error})."
    else:
        setattr(experiment, RECORD, record)
        logger.info(f"Weights of this back-test: {recorder.weights}, {record['weights']['size']:,} bytes")
        return
    logger.warning(
        str(
            Problem(
                "weights-not-recorded",
                f"This experiment's weights cannot be recorded: {why}",
                "It cannot be exported. A result from RD-Agent's run cache has no weights; CACHE_WITH_PICKLE=False "
                "has every experiment trained.",
            )
        )
    )


def recorded_weights(experiment: Any) -> Mapping[str, Any] | None:
    """``name``, ``size`` and ``sha256`` of the weights that are recorded with an experiment."""
    record = getattr(experiment, RECORD, None)
    return record["weights"] if record is not None else None


def read_recorded(experiment: Any) -> bytes:
    """The bytes of the weights that are recorded with an experiment.

    Raises:
        OSError: They cannot be read.
        ValueError: The file is not the one that was recorded.
    """
    record: Mapping[str, Any] = getattr(experiment, RECORD)
    path = Path(record["path"], "artifacts", record["weights"]["name"])
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != record["weights"]["sha256"]:
        raise ValueError(f"{path} was changed since the back-test")
    return data


def mark_embedded(experiment: Any, embedded: bool) -> None:
    """Have the record say whether the session holds the weights themselves."""
    setattr(experiment, RECORD, {**getattr(experiment, RECORD), "embedded": embedded})


def _describe(recorder: Recorder) -> dict[str, Any]:
    size, sha256 = measure(recorder.weights)
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment_id": recorder.experiment_id,
        "run_id": recorder.run_id,
        "path": str(recorder.folder.absolute()),
        "weights": {"name": recorder.weights.name, "size": size, "sha256": sha256},
        "embedded": False,
    }


_NAME = EMBEDDED_NAMES[0]

_KINDS = ("QlibFactorExperiment", "QlibModelExperiment")

_held: dict[str, bytes] = {}
"""Weights by SHA-256: those that the session keeps, and no others."""

_told: set[str] = set()
"""SHA-256 of the weights of which it was said why the session does not keep them."""


def adopt_history(loop: Any) -> None:
    """Make a loop ready that may have been loaded: weights out of the experiments, accepted ones recorded.

    What was accepted while the plugin was off has no record yet.
    """
    _take_out(loop)
    for experiment in _last_accepted(loop):
        if experiment.result is not None:
            record_artifacts(experiment)


@contextmanager
def keeping_weights(loop: Any, snapshot: Path, limit: int) -> Iterator[None]:
    """For the time of writing ``snapshot``, have the last accepted experiments hold their weights.

    Args:
        loop: The ``RDLoop``.
        snapshot: ``<loop>/<step>_<name>``; after the step ``running``, the experiment just back-tested is recorded.
        limit: Largest weights that are kept, in bytes.
    """
    _take_out(loop)
    _record_just_run(loop, snapshot)
    kept = [
        (experiment, data)
        for experiment in _last_accepted(loop)
        if (data := _weights_of(experiment, limit)) is not None
    ]
    _forget_all_but([data for _, data in kept])
    keepers = {id(experiment) for experiment, _ in kept}
    for experiment, _ in loop.trace.hist:
        if (weights := recorded_weights(experiment)) is not None:
            held = id(experiment) in keepers or _keeps_itself(experiment, weights["sha256"])
            mark_embedded(experiment, held)
    for experiment, data in kept:
        experiment.sub_workspace_list.append(_carry(data))
    try:
        yield
    finally:
        _take_out(loop)


def _record_just_run(loop: Any, snapshot: Path) -> None:
    if snapshot.name.partition("_")[2] != "running":
        return
    experiment = loop.loop_prev_out[int(snapshot.parent.name)].get("running")
    # A skipped loop has none, and a failed back-test no result.
    if experiment is not None and _kind_of(experiment) is not None and experiment.result is not None:
        record_artifacts(experiment)


def _last_accepted(loop: Any) -> list[Any]:
    """The last accepted experiment of each kind, of those that the run made itself."""
    last: dict[str, Any] = {}
    for experiment, feedback in loop.trace.hist:
        kind = _kind_of(experiment)
        if kind is not None and feedback.decision and not is_inherited(experiment):
            last[kind] = experiment
    return list(last.values())


def _kind_of(experiment: Any) -> str | None:
    # By name: a user's own subclasses count, and in other scenarios Qlib's need not be imported.
    names = {cls.__name__ for cls in type(experiment).__mro__}
    return next((kind for kind in _KINDS if kind in names), None)


def _weights_of(experiment: Any, limit: int) -> bytes | None:
    """The weights to keep with an accepted experiment; None, and a word on why, where there are none to keep."""
    weights = recorded_weights(experiment)
    if weights is None or limit == 0 or _keeps_itself(experiment, weights["sha256"]):
        return None
    if weights["size"] > limit:
        _tell(
            weights["sha256"],
            f"they have {weights['size']:,} bytes, and SOTA_EMBED_WEIGHTS_MB allows {limit:,}.",
            "They stay in the workspace; keep that, or raise SOTA_EMBED_WEIGHTS_MB.",
        )
        return None
    if weights["sha256"] in _held:
        return _held[weights["sha256"]]
    try:
        return read_recorded(experiment)
    except (OSError, ValueError) as error:
        _tell(
            weights["sha256"], f"{error}.", "Restore the workspace and resume the run, and they will be kept."
        )
        return None


def _keeps_itself(experiment: Any, sha256: str) -> bool:
    """Whether RD-Agent's own code keeps these very weights with the experiment, as that of some checkouts does."""
    return any(
        isinstance(data, bytes) and hashlib.sha256(data).hexdigest() == sha256
        for space in experiment.sub_workspace_list
        for data in (space.file_dict.get(name) for name in EMBEDDED_NAMES if space is not None)
    )


def _tell(sha256: str, why: str, hint: str) -> None:
    if sha256 not in _told:
        _told.add(sha256)
        logger.warning(
            str(
                Problem(
                    "weights-not-kept",
                    f"The session does not keep the weights of the last accepted experiment: {why}",
                    hint,
                )
            )
        )


def _carry(data: bytes) -> FBWorkspace:
    carrier = FBWorkspace(target_task=Task(name=_NAME, description="Weights of this experiment's back-test."))
    carrier.file_dict[_NAME] = data
    return carrier


def _take_out(loop: Any) -> None:
    for experiment, _ in loop.trace.hist:
        spaces = getattr(experiment, "sub_workspace_list", [])
        tasks = len(getattr(experiment, "sub_tasks", []))
        for carrier in filter(_is_carrier, spaces[tasks:]):
            _hold(carrier.file_dict[_NAME])
            spaces.remove(carrier)


def _is_carrier(space: Any) -> bool:
    return type(space) is FBWorkspace and isinstance(space.file_dict.get(_NAME), bytes)


def _hold(data: bytes) -> None:
    if not any(data is held for held in _held.values()):
        _held[hashlib.sha256(data).hexdigest()] = data


def _forget_all_but(kept: list[bytes]) -> None:
    for sha256, data in list(_held.items()):
        if not any(data is other for other in kept):
            del _held[sha256]
    for data in kept:
        _hold(data)

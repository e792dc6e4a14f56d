"""Record with an experiment which weights were back-tested, as soon as they are made.

The record (`model_artifacts`) is plain data, so that a session loads in an RD-Agent without this package. It is made
when a loop's snapshot is written: in the run's own process, after the runner is done, and after RD-Agent's run cache
has kept what it keeps. A result taken from that cache has no recorder in its workspace, and so gets no record.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.recorders.recorder import Recorder, find_recorder, measure

if TYPE_CHECKING:
    from collections.abc import Mapping

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

"""The MLflow recorder that holds a trained model: found by MLflow's own records, read without running any of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import BundleError, SnapshotError
from rdagent_sota_patch.hashing import hash_file
from rdagent_sota_patch.sessions.inert import LARGEST_SNAPSHOT, read_inert, too_large

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

WEIGHTS = "params.pkl"
TASK = "task"
DATASET = "dataset"
CONFIG = "config"
PREDICTIONS = "pred.pkl"

_FINISHED = "3"
"""``RunStatus.FINISHED`` in MLflow's file store."""
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_RECORD = 1 << 16


@dataclass(frozen=True, slots=True)
class RecorderHint:
    """What the plugin recorded on an experiment: which recorder is its own, and its weights.

    Attributes:
        size, sha256: Of the weights, when they were made.
    """

    experiment_id: str
    run_id: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Recorder:
    """One finished run in a workspace's ``mlruns``.

    Attributes:
        folder: ``<workspace>/mlruns/<experiment_id>/<run_id>``.
        ended_at: When the run ended, UTC.
    """

    workspace: Path
    experiment_id: str
    run_id: str
    folder: Path
    ended_at: datetime

    @property
    def artifacts(self) -> Path:
        """The folder with ``params.pkl``, ``task``, ``dataset`` and ``pred.pkl``."""
        return self.folder / "artifacts"

    @property
    def weights(self) -> Path:
        """The pickled model."""
        return self.artifacts / WEIGHTS


def parse_hint(record: Mapping[str, Any]) -> RecorderHint:
    """The hint in an experiment's ``model_artifacts`` record.

    Raises:
        BundleError: ``artifact-unreadable`` for a record in an unknown form.
    """
    match record:
        case {
            "schema_version": 1,
            "experiment_id": str() as experiment_id,
            "run_id": str() as run_id,
            "weights": {"size": int() as size, "sha256": str() as sha256},
        } if _ID.fullmatch(experiment_id) and _ID.fullmatch(run_id) and _SHA256.fullmatch(sha256):
            return RecorderHint(experiment_id, run_id, size, sha256)
    raise BundleError(
        "artifact-unreadable",
        "The session's record of the model (model_artifacts) is in a form that is not known.",
        "A newer version of this package may have written it; use that one.",
    )


def find_recorder(workspace: Path, expected: RecorderHint | None = None) -> Recorder:
    """The recorder of the model that RD-Agent's back-test in ``workspace`` trained.

    The one that ended last, as RD-Agent's own ``read_exp_res.py`` takes it, among those that finished and
    have weights; or exactly the expected one, whose weights must be those that were recorded.

    Args:
        workspace: The experiment's workspace on this machine.
        expected: What the session says about it, where it does.

    Raises:
        BundleError: ``weights-missing``, ``weights-changed``, ``recorder-ambiguous`` or ``artifact-unreadable``.
    """
    if expected is not None:
        return _expected_recorder(workspace, expected)
    found = sorted(_recorders(workspace), key=lambda recorder: recorder.ended_at)
    if not found:
        raise BundleError(
            "weights-missing",
            f"No model's weights in {workspace}: {workspace / 'mlruns'} has no finished run with {WEIGHTS}.",
            "An experiment from RD-Agent's run cache has no weights; run it again with CACHE_WITH_PICKLE=False, "
            "or export its factors alone with --factors-only.",
        )
    latest = found[-1]
    same = [recorder.run_id for recorder in found if recorder.ended_at == latest.ended_at]
    if len(same) > 1:
        raise BundleError(
            "recorder-ambiguous",
            f"{workspace / 'mlruns'}: the runs {', '.join(same)} ended in the same millisecond.",
            "Move the one that is not the back-test's out of mlruns.",
        )
    return latest


def read_artifact(recorder: Recorder, name: str) -> Any:
    """One artifact, as plain values and stand-ins (`sessions.inert`); nothing of it is run.

    Args:
        recorder: Whose it is.
        name: ``task``, ``dataset``, ``pred.pkl``, …

    Raises:
        BundleError: ``artifact-unreadable``.
    """
    path = recorder.artifacts / name
    try:
        # Neither a pipe, which would wait for ever, nor a folder.
        if not path.is_file():
            raise BundleError("artifact-unreadable", f"{path} is missing.", _RUN_AGAIN)
        size = path.stat().st_size
        if size > LARGEST_SNAPSHOT:
            raise too_large(size)
        return read_inert(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    except SnapshotError as error:
        raise unreadable(path, error.problems[0].message) from None


def read_predictions(recorder: Recorder) -> pd.DataFrame:
    """The back-test's predictions.

    Returns:
        Index (datetime, instrument) in Qlib's order, one column ``score`` in the model's own dtype.

    Raises:
        BundleError: ``artifact-unreadable``.
    """
    from rdagent_sota_patch.sessions.frames import thaw_frame
    from rdagent_sota_patch.sessions.thaw import Unthawable

    path = recorder.artifacts / PREDICTIONS
    try:
        frame = thaw_frame(read_artifact(recorder, PREDICTIONS))
    except Unthawable as error:
        raise unreadable(path, str(error)) from None
    if list(frame.index.names) != ["datetime", "instrument"] or list(frame.columns) != ["score"]:
        raise unreadable(path, f"it has index {list(frame.index.names)} and columns {list(frame.columns)}")
    if frame["score"].dtype.kind != "f":
        raise unreadable(path, f"its scores are of type {frame['score'].dtype}")
    return frame


def unreadable(path: Path, why: str) -> BundleError:
    """The error for an artifact that is there and cannot be read."""
    return BundleError("artifact-unreadable", f"{path} cannot be read: {why.rstrip('.')}.", _RUN_AGAIN)


_RUN_AGAIN = "Restore the workspace from a backup, or run the experiment again."


def _expected_recorder(workspace: Path, expected: RecorderHint) -> Recorder:
    folder = workspace / "mlruns" / expected.experiment_id / expected.run_id
    recorder = _read_recorder(workspace, folder)
    if recorder is None:
        raise BundleError(
            "weights-missing",
            f"The model of this experiment is gone: {folder} has no finished run with {WEIGHTS}.",
            "Restore the workspace, or export the factors alone with --factors-only.",
        )
    size, sha256 = measure(recorder.weights)
    if (size, sha256) != (expected.size, expected.sha256):
        raise BundleError(
            "weights-changed",
            f"{recorder.weights} is not what was trained: {size:,} bytes with SHA-256 {sha256[:12]}…, "
            f"recorded were {expected.size:,} with {expected.sha256[:12]}….",
            "Something else was trained in this workspace since; restore it from a backup.",
        )
    return recorder


def is_only_run(recorder: Recorder) -> bool:
    """Whether no other run, finished or not, was begun in its workspace.

    Raises:
        BundleError: ``artifact-unreadable``.
    """
    return _run_folders(recorder.workspace) == [recorder.folder]


def _recorders(workspace: Path) -> Iterator[Recorder]:
    for folder in _run_folders(workspace):
        recorder = _read_recorder(workspace, folder)
        if recorder is not None:
            yield recorder


def _run_folders(workspace: Path) -> list[Path]:
    try:
        experiments = [path for path in (workspace / "mlruns").iterdir() if _is_folder(path)]
        return [run for experiment in experiments for run in experiment.iterdir() if _is_folder(run)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(workspace / "mlruns", error.strerror or str(error)) from error


def _is_folder(path: Path) -> bool:
    # MLflow keeps what was deleted under .trash, and RD-Agent's experiments have numbers.
    return _ID.fullmatch(path.name) is not None and path.is_dir()


def _read_recorder(workspace: Path, folder: Path) -> Recorder | None:
    """The recorder in ``folder``; None where there is none, or it did not finish or has no weights."""
    path = folder / "meta.yaml"
    try:
        if not path.is_file() or not (folder / "artifacts" / WEIGHTS).is_file():
            return None
        weights = (folder / "artifacts" / WEIGHTS).resolve()
        if not weights.is_relative_to(workspace.resolve()):
            # Copied or served as weights, a link in a stranger's workspace would give away any file.
            raise unreadable(weights, f"{folder / 'artifacts' / WEIGHTS} leads outside of its workspace")
        with path.open("rb") as file:
            text = file.read(_LONGEST_RECORD + 1)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error
    if len(text) > _LONGEST_RECORD:
        raise unreadable(path, f"it has more than {_LONGEST_RECORD:,} bytes")
    wanted = ("run_id", "experiment_id", "status", "end_time", "lifecycle_stage")
    record = _parse_record(path, text, wanted)
    if (record["run_id"], record["experiment_id"]) != (folder.name, folder.parent.name):
        raise unreadable(path, f"it belongs to run {record['run_id']} of {record['experiment_id']}")
    if record["status"] != _FINISHED or record["lifecycle_stage"] != "active":
        return None
    try:
        ended_at = datetime.fromtimestamp(int(record["end_time"]) / 1000, tz=timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise unreadable(path, f"the end of the run is not a time: {record['end_time'][:40]}") from None
    return Recorder(workspace, record["experiment_id"], record["run_id"], folder, ended_at)


def _parse_record(path: Path, text: bytes, wanted: tuple[str, ...]) -> dict[str, str]:
    """The wanted values of a flat YAML mapping; those are ids, numbers and words, quoted or not."""
    try:
        lines = text.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise unreadable(path, "it is not UTF-8") from None
    record: dict[str, str] = {}
    for line in lines:
        # A value that goes on over several lines is indented there: none of ours does.
        key, colon, value = line.partition(":")
        if not colon or key not in wanted:
            continue
        if key in record:
            raise unreadable(path, f"it has {key} twice")
        found = re.fullmatch(r"""\s*(?:'([^'\\]*)'|"([^"\\]*)"|([\w.+-]*))\s*""", value)
        if found is None:
            raise unreadable(path, f"its {key} is in an unknown form")
        record[key] = next((part for part in found.groups() if part is not None), "")
    missing = [key for key in wanted if key not in record]
    if missing:
        raise unreadable(path, f"it lacks {', '.join(missing)}")
    return record


def measure(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of an artifact.

    Raises:
        BundleError: ``artifact-unreadable``.
    """
    try:
        with path.open("rb") as file:
            return hash_file(file)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from error

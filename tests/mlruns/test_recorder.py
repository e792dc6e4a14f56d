from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.mlruns.recorder import (
    RecorderHint,
    find_recorder,
    parse_hint,
    read_artifact,
    read_predictions,
)
from tests.mlruns.trained_runs import write_meta

WEIGHTS = b"weights"


def make_run(
    workspace: Path, experiment: str = "579009955235087965", name: str = "a" * 32, **changed: object
) -> Path:
    run = workspace / "mlruns" / experiment / name
    write_meta(run, **changed)
    (run / "artifacts").mkdir()
    (run / "artifacts" / "params.pkl").write_bytes(WEIGHTS)
    return run


def hint(run: Path, weights: bytes = WEIGHTS) -> RecorderHint:
    return RecorderHint(run.parent.name, run.name, len(weights), hashlib.sha256(weights).hexdigest())


def test_the_run_that_ended_last_is_the_back_tests(tmp_path: Path) -> None:
    make_run(tmp_path, name="a" * 32, end_time=1795247850796)
    run = make_run(tmp_path, experiment="939288483598368115", name="b" * 32, end_time=1795247850797)
    make_run(tmp_path, name="c" * 32, end_time=1795247850795)
    (tmp_path / "mlruns" / "0").mkdir()
    found = find_recorder(tmp_path)
    assert (found.folder, found.experiment_id, found.run_id) == (run, "939288483598368115", "b" * 32)
    assert found.ended_at == datetime(2026, 11, 21, 7, 57, 30, 797000, tzinfo=timezone.utc)
    assert found.weights.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    "changed", [{"status": 4}, {"status": 1, "end_time": "null"}, {"lifecycle_stage": "deleted"}], ids=str
)
def test_runs_that_did_not_finish_are_passed_over(tmp_path: Path, changed: dict[str, Any]) -> None:
    run = make_run(tmp_path, end_time=1)
    make_run(tmp_path, name="b" * 32, **{"end_time": 9, **changed})
    assert find_recorder(tmp_path).folder == run


def test_a_run_without_weights_is_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path, end_time=1)
    other = make_run(tmp_path, name="b" * 32, end_time=2)
    (other / "artifacts" / "params.pkl").unlink()
    assert find_recorder(tmp_path).folder == run


def test_what_mlflow_deleted_is_not_found(tmp_path: Path) -> None:
    make_run(tmp_path, experiment=".trash")
    with pytest.raises(BundleError) as caught:
        find_recorder(tmp_path)
    assert caught.value.slug == "weights-missing"


def test_no_runs_at_all(tmp_path: Path) -> None:
    """An experiment from the run cache has its result alone."""
    with pytest.raises(BundleError) as caught:
        find_recorder(tmp_path)
    assert caught.value.slug == "weights-missing"
    assert "--factors-only" in str(caught.value)


def test_two_that_ended_together_are_not_guessed_between(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, name="b" * 32)
    with pytest.raises(BundleError) as caught:
        find_recorder(tmp_path)
    assert caught.value.slug == "recorder-ambiguous"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run_id": "b" * 32}, "belongs to run"),
        ({"end_time": "soon"}, "not a time"),
        ({"end_time": 10**30}, "not a time"),
        ({"status": "[3]"}, "status is in an unknown form"),
        ({"zzz": "1\nstatus: 3"}, "status twice"),
    ],
    ids=str,
)
def test_a_damaged_record_is_an_error(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    make_run(tmp_path, **changed)
    with pytest.raises(BundleError, match=said) as caught:
        find_recorder(tmp_path)
    assert caught.value.slug == "artifact-unreadable"


def test_a_record_cut_short_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = (run / "meta.yaml").read_text(encoding="utf-8")
    (run / "meta.yaml").write_text(text.split("lifecycle_stage")[0], encoding="utf-8")
    with pytest.raises(BundleError, match="it lacks run_id, status, lifecycle_stage") as caught:
        find_recorder(tmp_path)
    assert caught.value.slug == "artifact-unreadable"


def test_the_expected_recorder_and_no_other(tmp_path: Path) -> None:
    run = make_run(tmp_path, end_time=1)
    make_run(tmp_path, name="b" * 32, end_time=2)
    assert find_recorder(tmp_path, hint(run)).folder == run


def test_other_weights_than_those_recorded_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(BundleError) as caught:
        find_recorder(tmp_path, hint(run, b"Weights"))
    assert caught.value.slug == "weights-changed"


def test_an_expected_recorder_that_is_gone(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(BundleError) as caught:
        find_recorder(tmp_path, RecorderHint("1", "c" * 32, 7, "0" * 64))
    assert caught.value.slug == "weights-missing"


@pytest.mark.parametrize("linked", ["params.pkl", "artifacts"])
def test_weights_outside_of_the_workspace_are_refused(tmp_path: Path, linked: str) -> None:
    """A link in a workspace that came from a stranger must not ship another file of the user's as weights."""
    workspace, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    run = make_run(workspace)
    elsewhere.mkdir()
    (elsewhere / "params.pkl").write_bytes(b"a secret")
    place = run / "artifacts" if linked == "artifacts" else run / "artifacts" / linked
    if linked == "artifacts":
        shutil.rmtree(place)
        place.symlink_to(elsewhere)
    else:
        place.unlink()
        place.symlink_to(elsewhere / linked)
    with pytest.raises(BundleError) as caught:
        find_recorder(workspace)
    assert caught.value.slug == "artifact-unreadable"
    assert "outside" in str(caught.value)


def record(**changed: object) -> dict[str, Any]:
    weights = {"name": "params.pkl", "size": 7, "sha256": "0" * 64}
    made = {"schema_version": 1, "experiment_id": "12", "run_id": "ab", "path": "/x", "weights": weights}
    return {**made, "embedded": False, **changed}


def test_a_session_s_record_is_parsed() -> None:
    assert parse_hint(record()) == RecorderHint("12", "ab", 7, "0" * 64)


@pytest.mark.parametrize(
    "changed",
    [{"schema_version": 2}, {"run_id": "../../etc"}, {"experiment_id": 12}, {"weights": {"size": 7}}],
    ids=str,
)
def test_a_record_in_another_form_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        parse_hint(record(**changed))
    assert caught.value.slug == "artifact-unreadable"


@pytest.mark.parametrize("damage", ["missing", "folder", "cut", "not a pickle"])
def test_an_artifact_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path)
    path = run / "artifacts" / "task"
    content = pickle.dumps({"model": 1})
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(content[:-4] if damage == "cut" else b"no pickle")
    with pytest.raises(BundleError) as caught:
        read_artifact(find_recorder(tmp_path), "task")
    assert caught.value.slug == "artifact-unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_an_artifact_does_not_hang(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    os.mkfifo(run / "artifacts" / "task")
    with pytest.raises(BundleError):
        read_artifact(find_recorder(tmp_path), "task")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("ran",))


def test_nothing_of_an_artifact_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path)
    for name in ("task", "pred.pkl"):
        (run / "artifacts" / name).write_bytes(pickle.dumps(Hostile()))
    recorder = find_recorder(tmp_path)
    read_artifact(recorder, "task")
    with pytest.raises(BundleError):
        read_predictions(recorder)
    assert not (tmp_path / "ran").exists()


def predictions(column: str = "score", dtype: str = "f4", **names: str) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([pd.to_datetime(["2024-01-02"]), ["SH600000", "SZ000001"]])
    index.names = [names.get("first", "datetime"), "instrument"]
    return pd.DataFrame({column: np.array([1, 2], dtype=dtype)}, index=index)


def test_predictions_are_read_to_the_bit(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    predictions().to_pickle(run / "artifacts" / "pred.pkl")
    read = read_predictions(find_recorder(tmp_path))
    pd.testing.assert_frame_equal(read, predictions(), check_exact=True)


@pytest.mark.parametrize(
    "frame",
    [predictions(column="Score"), predictions(dtype="i4"), predictions(first="day")],
    ids=["a", "b", "c"],
)
def test_predictions_in_another_form_are_refused(tmp_path: Path, frame: pd.DataFrame) -> None:
    run = make_run(tmp_path)
    frame.to_pickle(run / "artifacts" / "pred.pkl")
    with pytest.raises(BundleError) as caught:
        read_predictions(find_recorder(tmp_path))
    assert caught.value.slug == "artifact-unreadable"

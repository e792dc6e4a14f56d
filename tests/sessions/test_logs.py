from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SnapshotError, SourceError
from rdagent_sota_patch.sessions.logs import LATEST, find_log, log_roots

from .forged import factor_experiment, feedback, history, model_experiment, put, saved_loop

REJECTED = saved_loop((factor_experiment("A"), feedback(False)))
MODEL = saved_loop((model_experiment(), feedback(True)))


def run(root: Path, name: str, content: object, written: float) -> Path:
    path = put(root / name, 0, "0_record", content)  # type: ignore[arg-type]
    os.utime(path, (written, written))
    return root / name


def test_roots() -> None:
    """The neighbours of LOG_TRACE_PATH come first, then ./log; never twice."""
    assert log_roots({}) == (Path("log"),)
    assert log_roots({"LOG_TRACE_PATH": "/runs/today"}) == (Path("/runs"), Path("log"))
    assert log_roots({"log_trace_path": "log/today"}) == (Path("log"),)


def test_the_newest_accepted_run(tmp_path: Path) -> None:
    """Newer runs without accepted factors are passed over; time of writing decides, not the name."""
    run(tmp_path, "z-old", history(1), 100)
    wanted = run(tmp_path, "a-new", history(1), 200)
    run(tmp_path, "rejected", REJECTED, 300)
    run(tmp_path, "model", MODEL, 400)
    (tmp_path / "no-session").mkdir()
    (tmp_path / "a file").touch()
    assert find_log(LATEST, [tmp_path]).log == wanted


def test_the_asking_run_is_left_out(tmp_path: Path) -> None:
    """A run does not find itself, however its path is spelled."""
    older = run(tmp_path, "older", history(1), 100)
    asking = run(tmp_path, "asking", history(1), 200)
    spelled = tmp_path / "older" / ".." / asking.name
    assert find_log(LATEST, [tmp_path], exclude=[spelled]).log == older


def test_an_unreadable_newer_run_is_said(tmp_path: Path) -> None:
    """A damaged newer run does not stop the search, and is not hidden either."""
    run(tmp_path, "good", history(1), 100)
    broken = run(tmp_path, "broken", b"junk", 200)
    assert broken in [path for path, _ in find_log(LATEST, [tmp_path]).skipped]


def test_several_roots(tmp_path: Path) -> None:
    """All roots are searched, a missing one is not a problem, and one met twice counts once."""
    wanted = run(tmp_path / "b", "run", history(1), 200)
    run(tmp_path / "a", "run", history(1), 100)
    roots = [tmp_path / "a", tmp_path / "missing", tmp_path / "b", tmp_path / "a" / ".." / "b"]
    assert find_log(LATEST, roots).log == wanted


def test_none_found_tells_what_there_was(tmp_path: Path) -> None:
    """The error counts the runs and gives the first few with their reason."""
    for number in range(7):
        run(tmp_path, f"run{number}", REJECTED, number)
    with pytest.raises(SourceError) as caught:
        find_log(LATEST, [tmp_path])
    assert caught.value.slug == "no-accepted-run"
    assert "among 7" in str(caught.value)
    assert "run6: 1 rejected factor experiment" in str(caught.value)
    assert "and 2 more" in str(caught.value)


def test_no_root_at_all(tmp_path: Path) -> None:
    """Nothing to look at is the same error, naming the place."""
    with pytest.raises(SourceError, match="among 0") as caught:
        find_log(LATEST, [tmp_path / "log"])
    assert str(tmp_path / "log") in str(caught.value)


def test_a_named_log(tmp_path: Path) -> None:
    """Any other path is read as it is, accepted factors or not."""
    assert find_log(run(tmp_path, "run", MODEL, 1), []).log == tmp_path / "run"
    with pytest.raises(SourceError, match="log-not-found"):
        find_log(tmp_path / "none", [])


def test_an_altered_newer_run_stops_latest(tmp_path: Path, key_here: None) -> None:
    """An altered run may be the newest accepted one: no older one is put in its place."""
    run(tmp_path, "old", history(1), 100)
    altered = b"RDAGENT_SIGNED_PICKLE_V1\n" + bytes(32) + pickle.dumps({"not": "signed with our key"})
    run(tmp_path, "new", altered, 200)
    with pytest.raises(SnapshotError, match="snapshot-altered"):
        find_log(LATEST, [tmp_path])

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdagent_sota_patch.errors import SnapshotError, SotaError, SourceError
from rdagent_sota_patch.sessions import snapshots
from rdagent_sota_patch.sessions.records import Session, Signature
from rdagent_sota_patch.sessions.snapshots import read_session

from .forged import Made, factor_experiment, feedback, forge, history, put, saved_loop
from .generated_log import KEY


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Three loops of two steps; the history grows in the second."""
    folder = tmp_path / "log" / "run"
    for loop in range(3):
        put(folder, loop, "0_propose", history(loop))
        put(folder, loop, "1_record", history(loop + 1))
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots read so far, as loop/step."""
    paths: list[str] = []
    read = snapshots._open

    def note(path: Path, key: bytes | None) -> snapshots._Candidate:
        paths.append(f"{path.parent.name}/{path.name}")
        return read(path, key)

    monkeypatch.setattr(snapshots, "_open", note)
    return paths


def test_an_ordinary_log_takes_one_file(log: Path, opened: list[str]) -> None:
    """The newest snapshot already holds as many entries as there are final steps."""
    session = read_session(log)
    assert (len(session.experiments), session.log, session.task_id) == (3, log, "run")
    assert session.snapshot == log / "__session__" / "2" / "1_record"
    assert opened == ["2/1_record"]


@pytest.mark.parametrize("content", [history(1), b"junk"])
def test_the_garbage_collector_is_left_as_it_was(tmp_path: Path, content: Made | bytes) -> None:
    """Reading pauses the collector, and gives it back also after a failure; off stays off."""
    path = put(tmp_path, 0, "0_record", content)
    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            with contextlib.suppress(SotaError):
                read_session(path)
            assert gc.isenabled() is enabled
        finally:
            gc.enable()


def test_an_interrupted_log_takes_one_file(log: Path, opened: list[str]) -> None:
    """A run stopped inside a loop has its full history in the newest file."""
    put(log, 3, "0_propose", history(3))
    assert read_session(log).snapshot.parent.name == "3"
    assert opened == ["3/0_propose"]


def test_loops_are_sorted_as_numbers(tmp_path: Path) -> None:
    """Loop 10 is newer than loop 9."""
    for loop in range(11):
        put(tmp_path, loop, "0_record", history(loop + 1))
    assert read_session(tmp_path).snapshot.parent.name == "10"


def test_a_restarted_lineage_is_found(log: Path) -> None:
    """A longer history in an older loop wins over a newer, shorter one."""
    put(log, 1, "1_record", history(5))
    session = read_session(log)
    # Three final steps bound what the newest claims; it has three, so nothing older is asked.
    assert len(session.experiments) == 3
    put(log, 2, "1_record", history(1))
    put(log, 2, "0_propose", history(1))
    assert len(read_session(log).experiments) == 5


def test_the_second_best_is_used_and_said(log: Path) -> None:
    """A truncated newest snapshot is skipped, listed with its reason, and the next one used."""
    newest = log / "__session__" / "2" / "1_record"
    newest.write_bytes(newest.read_bytes()[:-40])
    session = read_session(log)
    assert len(session.experiments) == 2
    assert [path for path, _ in session.skipped] == [newest]
    assert "complete pickle" in session.skipped[0][1]


def test_foreign_snapshots_are_skipped(log: Path) -> None:
    """A readable pickle that is not a session is passed over, too."""
    put(log, 2, "1_record", forge({"not": "a loop"}))
    session = read_session(log)
    assert len(session.experiments) == 2
    assert "trace.hist" in session.skipped[0][1]


def test_other_files_are_noted(log: Path, opened: list[str]) -> None:
    """Locks, temporary and hidden files and stray folders are never opened."""
    for name in ("2/1_record.tmp", "2/1_record.lock", "2/.1_record", "2/x_record", "2/5", "notes.txt"):
        (log / "__session__" / name).write_bytes(b"x")
    (log / "__session__" / "old").mkdir()
    (log / "__session__" / "2" / "7_folder").mkdir()
    assert len(read_session(log).skipped) == 8
    assert opened == ["2/1_record"]


def test_a_session_folder_and_a_snapshot_can_be_named(log: Path) -> None:
    """__session__ is the same log; one snapshot is read as it is, shorter or not."""
    assert read_session(log / "__session__").log == log
    session = read_session(log / "__session__" / "1" / "0_propose")
    assert (len(session.experiments), session.log) == (1, log)


def test_a_snapshot_taken_out_of_its_log(log: Path, tmp_path: Path) -> None:
    """A copied snapshot reads on its own."""
    copy = shutil.copy(log / "__session__" / "2" / "1_record", tmp_path / "copied")
    assert len(read_session(Path(copy)).experiments) == 3


@pytest.mark.parametrize(
    ("make", "slug", "words"),
    [
        (lambda path: None, "log-not-found", "Log path does not exist: "),
        (lambda path: path.mkdir(), "session-not-found", "Session directory not found: "),
        (
            lambda path: (path / "__session__").mkdir(parents=True),
            "no-snapshots",
            "No loop directories found in session: ",
        ),
        (
            lambda path: (path / "__session__" / "0").mkdir(parents=True),
            "no-snapshots",
            "No session files found in loop directory: ",
        ),
        (lambda path: path.write_text("a file"), "not-a-log", "neither"),
        (lambda path: (path.mkdir(), (path / "__session__").touch()), "not-a-log", "is a file"),
        (lambda path: put(path, 0, "0_x", b"junk"), "no-readable-snapshot", "0_x"),
        (lambda path: put(path, 0, "0_x", b""), "no-readable-snapshot", "Failed to load session file: "),
    ],
)
def test_bad_places(tmp_path: Path, make: object, slug: str, words: str) -> None:
    """Each kind of wrong place has its own error, which names the place."""
    path = tmp_path / "因子 log"
    make(path)  # type: ignore[operator]
    with pytest.raises(SourceError) as caught:
        read_session(path)
    assert caught.value.slug == slug
    assert words in str(caught.value) and "因子 log" in str(caught.value)


@pytest.mark.parametrize("name", ["x\0y", "x" * 5000])
def test_impossible_names(name: str) -> None:
    """A path the system refuses is a clear error."""
    with pytest.raises(SourceError, match="log-unreadable"):
        read_session(Path(name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_without_permission(log: Path) -> None:
    """A folder that may not be listed says so."""
    folder = log / "__session__"
    folder.chmod(0)
    try:
        with pytest.raises(SourceError, match="log-unreadable"):
            read_session(log)
    finally:
        folder.chmod(0o755)


def test_a_folder_that_cannot_be_listed(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's refusal to list becomes an error with its reason, whoever runs this."""

    def refuse(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match="Permission denied"):
        read_session(log)


@pytest.mark.usefixtures("key_here")
def test_an_altered_best_snapshot_stops_the_reading(real_log: Path, tmp_path: Path) -> None:
    """One changed letter in the newest file raises; an older set is never used instead."""
    log = Path(shutil.copytree(real_log, tmp_path / "log" / "copy"))
    newest = log / "__session__" / "3" / "4_record"
    newest.write_bytes(newest.read_bytes().replace(b"because of its metrics", b"because of its beauty!"))
    with pytest.raises(SnapshotError) as caught:
        read_session(log)
    assert caught.value.slug == "snapshot-altered"
    assert str(newest) in str(caught.value)


@pytest.mark.usefixtures("key_here")
def test_a_truncated_signed_snapshot_is_skipped(real_log: Path, tmp_path: Path) -> None:
    """A file cut short by a killed run is damaged, not altered."""
    log = Path(shutil.copytree(real_log, tmp_path / "log" / "copy"))
    newest = log / "__session__" / "3" / "4_record"
    newest.write_bytes(newest.read_bytes()[:-500])
    session = read_session(log)
    assert (len(session.experiments), len(session.skipped)) == (3, 1)


def test_without_the_key(real_log: Path) -> None:
    """A signed log is read where its key is not, and says so."""
    assert read_session(real_log).signature is Signature.KEY_NOT_HERE


def test_another_machines_key(real_log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key of our own another machine's log is refused until the user decides."""
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", "another " + KEY)
    with pytest.raises(SnapshotError, match="another machine"):
        read_session(real_log)


def test_endless_experiments_are_an_error(tmp_path: Path) -> None:
    """Experiments based on each other hundreds deep are a SnapshotError, not a crash."""
    experiment = factor_experiment("A")
    for _ in range(400):
        experiment = factor_experiment("A", based_experiments=[experiment])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    try:
        path = put(tmp_path, 0, "0_record", saved_loop((experiment, feedback(True))))
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(SnapshotError, match="snapshot-foreign"):
        read_session(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300))
def test_arbitrary_files(tmp_path: Path, data: bytes) -> None:
    """Any bytes as a snapshot give a SotaError, or a session."""
    put(tmp_path, 0, "0_record", data)
    _session_or_error(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6), st.integers(0, 6)), max_size=4
    ),
    plain=st.booleans(),
)
def test_mutated_real_snapshots(
    real_log: Path, tmp_path: Path, changes: list[tuple[float, bytes, int]], plain: bool
) -> None:
    """A real snapshot with bytes exchanged, inserted or lost gives a session or a SotaError."""
    data = (real_log / "__session__" / "0" / "4_record").read_bytes()
    if plain:
        data = data[len(b"RDAGENT_SIGNED_PICKLE_V1\n") + 32 :]
    for place, new, lost in changes:
        start = int(place * len(data))
        data = data[:start] + new + data[start + lost :]
    put(tmp_path, 0, "0_record", data)
    _session_or_error(tmp_path)


def _session_or_error(path: Path) -> None:
    try:
        assert isinstance(read_session(path), Session)
    except SotaError as error:
        assert error.slug and str(error)

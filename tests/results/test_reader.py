"""Logs read in processes that can be ended: a bad one keeps no other waiting."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import ApiError, SnapshotError, SotaError, SourceError
from rdagent_sota_patch.results import reader as module
from rdagent_sota_patch.results.reader import Reader
from rdagent_sota_patch.results.reader_process import pack
from rdagent_sota_patch.sessions.snapshots import read_session
from tests.results.log_root import run_of_factors, write_run
from tests.sessions.forged import Made, factor_experiment, feedback, put, saved_loop
from tests.sessions.generated_log import KEY

TASK = Made("rdagent.components.coder.factor_coder.factor", "FactorTask", state={"factor_name": "same"})


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    made.make_ready()
    yield made
    made.close()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    write_run(tmp_path / "mined", [(run_of_factors("ZMom"), True), (run_of_factors("GapA"), True)])
    return tmp_path / "mined"


def bad_log(folder: Path) -> Path:
    """A hundred thousand factors in a small file: seconds of reading."""
    put(
        folder,
        0,
        "4_record",
        saved_loop((factor_experiment("A", sub_tasks=[TASK] * 100_000), feedback(True))),
    )
    return folder


def reading_processes() -> set[int]:
    """Those of this process's grandchildren that a child has forked."""

    def children(process: int) -> list[int]:
        tasks = Path(f"/proc/{process}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]

    return {process for child in children(os.getpid()) for process in children(child)}


def test_gives_what_is_read_here(reader: Reader, log: Path) -> None:
    """Every record, to the last field."""
    assert pack(reader.read(log)) == pack(read_session(log))


def test_an_error_comes_as_it_is(reader: Reader, tmp_path: Path, log: Path) -> None:
    """With its class and every problem; the process that reads goes on."""
    with pytest.raises(SourceError) as raised:
        reader.read(tmp_path / "nowhere")
    assert raised.value.slug == "log-not-found"
    assert reader.read(log).task_id == "mined"


def test_two_bad_logs_keep_no_other_waiting(reader: Reader, tmp_path: Path, log: Path) -> None:
    """The others are read while they are; and they are refused for what they are."""
    told: list[SotaError] = []

    def read(folder: Path) -> None:
        with pytest.raises(SnapshotError, match="100,000 factors") as raised:
            reader.read(folder)
        told.append(raised.value)

    bad = [threading.Thread(target=read, args=(bad_log(tmp_path / f"bad{number}"),)) for number in range(2)]
    for thread in bad:
        thread.start()
    stopped: set[int] = set()
    while len(stopped) < len(bad):  # However fast the machine is, they are not done now.
        time.sleep(0.005)
        for process in reading_processes() - stopped:
            os.kill(process, signal.SIGSTOP)
            stopped.add(process)
    try:
        for _ in range(3):
            assert reader.read(log).task_id == "mined"
        assert told == []
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
        for thread in bad:
            thread.join()
    assert {error.slug for error in told} == {"snapshot-too-large"}


def test_more_bad_logs_than_are_read_at_a_time(
    reader: Reader, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is given up for another, and read when there is room for what takes long."""
    monkeypatch.setattr(module, "_SOON", 0.1)
    told: list[str] = []

    def read(folder: Path) -> None:
        with pytest.raises(SnapshotError) as raised:
            reader.read(folder)
        told.append(raised.value.slug)

    bad = [threading.Thread(target=read, args=(bad_log(tmp_path / f"bad{number}"),)) for number in range(4)]
    for thread in bad:
        thread.start()
    for thread in bad:
        thread.join()
    assert told == ["snapshot-too-large"] * 4
    assert reader.read(log).task_id == "mined"


def test_what_takes_too_long_is_ended(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is left."""
    monkeypatch.setattr(module, "_SOON", 0.05)
    monkeypatch.setattr(module, "_LONGEST", 0.1)
    with pytest.raises(ApiError) as raised:
        reader.read(bad_log(tmp_path / "bad"))
    assert raised.value.slug == "reading-took-too-long"


def test_nothing_is_read_once_it_is_closed(log: Path) -> None:
    """Also what waits is told."""
    reader = Reader()
    assert reader.read(log).task_id == "mined"
    reader.close()
    with pytest.raises(ApiError, match="being stopped") as caught:
        reader.read(log)
    assert caught.value.slug == "server-stopping"

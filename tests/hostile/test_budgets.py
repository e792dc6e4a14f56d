"""Small files that would come out large, or slowly: refused, or read in bounded time and memory."""

from __future__ import annotations

import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rdagent_sota_patch.cli import app
from rdagent_sota_patch.errors import SnapshotError, SotaError
from rdagent_sota_patch.sessions import inert, opcodes, snapshots
from tests.sessions.forged import Made, factor_experiment, feedback, forge, model_experiment, put, saved_loop

from .watching import read_session

FACTOR_TASK = ("rdagent.components.coder.factor_coder.factor", "FactorTask")


def log_of(*history: tuple[object, Made]) -> Path:
    put(Path("log"), 0, "4_record", saved_loop(*history))
    return Path("log")


def inspect(*more: str) -> Any:
    return CliRunner().invoke(app, ["inspect", "log", *more])


def test_one_text_many_times() -> None:
    """A text of a megabyte that 2,000 factors share would be two gigabytes of JSON."""
    task = Made(*FACTOR_TASK, state={"factor_name": "same", "description": "D" * 1_000_000})
    log = log_of((factor_experiment("A", sub_tasks=[task] * 2000), feedback(True)))
    with pytest.raises(SotaError, match="64,000,000 characters"):
        read_session(log)
    assert json.loads(inspect("--json").stdout)["problems"][0]["slug"] == "no-readable-snapshot"


def test_a_list_of_one_text() -> None:
    """A value that is written out as text is counted before it is."""
    task = Made(*FACTOR_TASK, state={"factor_name": "A", "variables": {"x": [["D" * 1_000_000]] * 40_000}})
    log = log_of((factor_experiment("A", sub_tasks=[task]), feedback(True)))
    with pytest.raises(SotaError, match="64,000,000 characters"):
        read_session(log)


def test_lists_that_many_experiments_share() -> None:
    """A list of factors, and one of what an experiment is based on, count for each experiment."""
    task = Made(*FACTOR_TASK, state={"factor_name": "A"})
    tasks, based = [task] * 3000, [factor_experiment("B")] * 3000
    for shared in ({"sub_tasks": tasks}, {"based_experiments": based}):
        log = log_of(*((factor_experiment("A", **shared), feedback(True)) for _ in range(3000)))
        with pytest.raises(SotaError, match="4,000,000 values"):
            read_session(log)


def test_a_hundred_thousand_factors_of_one_name() -> None:
    """What a session may hold is read in linear time."""
    task = Made(*FACTOR_TASK, state={"factor_name": "same"})
    log = log_of((factor_experiment("A", sub_tasks=[task] * 100_000), feedback(True)))
    start = time.process_time()
    (record,) = read_session(log).experiments
    assert len(record.factors) == 100_000
    assert time.process_time() - start < 10


def test_what_is_printed_fits_on_a_screen() -> None:
    """A hundred thousand names, and a name of a million characters."""
    tasks = [Made(*FACTOR_TASK, state={"factor_name": "same"})] * 100_000
    log_of((factor_experiment("A", sub_tasks=tasks), feedback(True)))
    printed = inspect().stdout
    assert "and 99," in printed and "more (--json has more)" in printed
    assert len(printed) < 10_000
    long = Made(*FACTOR_TASK, state={"factor_name": "x" * 1_000_000})
    log_of((factor_experiment("A", sub_tasks=[long]), feedback(True)))
    assert len(inspect().stdout) < 10_000
    assert len(inspect("--json").stdout) > 1_000_000


def test_json_says_how_many_factors_it_leaves_out() -> None:
    """A factor that an experiment repeats is listed once, and so many of one log as are served; nothing is silent."""
    same = Made(*FACTOR_TASK, state={"factor_name": "same"})
    log_of((factor_experiment("A", sub_tasks=[same] * 100_000), feedback(True)))
    result = inspect("--json")
    (loop,) = json.loads(result.stdout)["loops"]
    # One has code, and the others have none.
    assert [(each["name"], each["implemented"]) for each in loop["factors"]] == [
        ("same", True),
        ("same", False),
    ]
    assert loop["factors_left_out"] == 99_998
    assert "99,998 factors are not listed" in result.stderr
    assert len(result.stdout) < 10_000
    tasks = [Made(*FACTOR_TASK, state={"factor_name": f"F{place}"}) for place in range(9_000)]
    log_of(*((factor_experiment("A", sub_tasks=tasks), feedback(True)) for _ in range(2)))
    document = json.loads(inspect("--json").stdout)
    listed = [document["sota"], *document["loops"]]
    assert [len(part["factors"]) for part in listed] == [1, 9_000, 999]
    assert [part["factors_left_out"] for part in listed] == [0, 0, 8_001]


def test_json_of_an_honest_log_has_all() -> None:
    """Nothing is left out of a log as runs write it, and it says that."""
    log_of((factor_experiment("A", "B"), feedback(True)), (factor_experiment("C"), feedback(False)))
    result = inspect("--json")
    document = json.loads(result.stdout)
    assert [[factor["name"] for factor in loop["factors"]] for loop in document["loops"]] == [
        ["A", "B"],
        ["C"],
    ]
    assert document["sota"]["factors"] == ["A", "B"]
    assert not any(part["factors_left_out"] for part in (document["sota"], *document["loops"]))
    assert result.stderr == ""


@pytest.mark.parametrize(
    "recorded",
    [
        {"factors": [{"name": "A", "code": b"bytes"}]},
        {"start": datetime.date(2015, 1, 1)},
        {("a", "b"): 1},
        {"x": {1: 2}},
        ["no mapping"],
    ],
)
def test_records_that_json_does_not_have(recorded: object) -> None:
    """What the plugin never records is noted and left out; that there was something is still known."""
    log = log_of((factor_experiment("A", sota_source=recorded), feedback(True)))
    (record,) = read_session(log).experiments
    assert record.sota_source == {}
    assert any(note.startswith("sota_source") for note in record.unread)
    assert inspect().exit_code == 0
    assert json.loads(inspect("--json").stdout)["loops"][0]["sota_source"] is None


def test_a_record_without_its_counts() -> None:
    """A model's record that lacks what the plugin writes is shown as unknown."""
    log_of((model_experiment(sota_source={"x": 1}), feedback(True)))
    result = inspect()
    assert (result.exit_code, result.exception) == (0, None)
    assert "on ? SOTA factors" in result.stdout


def test_files_of_strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not signed with this machine's key may be smaller only, and have so many opcodes only."""
    log = log_of((factor_experiment("A"), feedback(True)))
    monkeypatch.setattr(snapshots, "LARGEST_OF_STRANGERS", 100)
    with pytest.raises(SotaError, match="more than 100 are not read"):
        read_session(log)
    assert inert.LARGEST_OF_STRANGERS < inert.LARGEST_SNAPSHOT
    monkeypatch.setattr(opcodes, "MOST_OPCODES", 1000)
    with pytest.raises(SnapshotError, match="more than 1,000 opcodes"):
        inert.read_inert(forge(list(range(1000))))


@pytest.mark.parametrize(
    "data",
    [
        b"N0" * 500_000,
        b"]" + b"Na" * 500_000,
        b"(t0" * 350_000,
        b"N" + b"\x94" * 1_000_000,
        b"N" + b"p0\n" * 350_000,
        b"(1" * 500_000,
    ],
)
def test_screening_keeps_up(data: bytes) -> None:
    """Opcodes of a byte each are screened at 2 MB a second; four times slower here, for busy machines."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        opcodes.screen(b"\x80\x04" + data + b"N.")
        seconds.append(time.process_time() - start)
    assert len(data) / min(seconds) > 0.5e6


def test_folders_deeper_than_a_path_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """25 folders of 255 letters: an error or an answer, and no traceback."""
    for _ in range(25):
        Path("d" * 255).mkdir()
        monkeypatch.chdir("d" * 255)
    for path in ("log", "latest", "d" * 300):
        result = CliRunner().invoke(app, ["inspect", path])
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit), result.exception

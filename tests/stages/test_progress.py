"""How far a stage is, by its log."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.progress import (
    Progress,
    Step,
    Watcher,
    find_resume_point,
    measure,
    skip_reasons,
)
from rdagent_sota_patch.stages.state import StageName
from tests.sessions.generated_log import METRICS

FACTOR, MODEL = StageName.FACTOR, StageName.MODEL


@pytest.fixture
def log(prepared: Path, project: Path) -> Path:
    """A copy of the model stage's log."""
    return Path(shutil.copytree(prepared / "model" / "log" / "run", project / "log" / "model"))


def test_measures_loops_decisions_and_best_ic(log: Path) -> None:
    """Skipped loops are in the history, and count as no result."""
    assert measure(log, MODEL, 9) == Progress(
        MODEL, 9, finished=4, accepted=2, skipped=1, best_ic=METRICS["IC"]
    )


def test_inherited_history_is_not_the_stages_own(log: Path) -> None:
    """Factor experiments at the head of a model stage's history are none of its loops."""
    assert measure(log, FACTOR, 9).finished == 0


def test_nothing_begun_is_no_error(project: Path) -> None:
    """Before RD-Agent has made its log, a stage has done nothing."""
    assert measure(project / "log" / "none", FACTOR, 2) == Progress(FACTOR, 2)
    assert find_resume_point(project / "log" / "none") is None


def test_goes_on_from_the_newest_snapshot(log: Path) -> None:
    """By loop and step, not by name or time."""
    assert find_resume_point(log) == log / "__session__" / "3" / "4_record"


def test_torn_snapshot_is_passed_over(log: Path) -> None:
    """Of a run that was killed as it wrote, the snapshot before the torn one is taken."""
    torn = log / "__session__" / "3" / "4_record"
    torn.write_bytes(torn.read_bytes()[:-100])
    assert find_resume_point(log) == log / "__session__" / "3" / "3_feedback"


def test_only_a_torn_snapshot_is_none(log: Path) -> None:
    """Nothing whole to go on from means to begin afresh."""
    for loop in ("1", "2", "3"):
        shutil.rmtree(log / "__session__" / loop)
    for step in (log / "__session__" / "0").iterdir():
        step.write_bytes(step.read_bytes()[:-100])
    assert find_resume_point(log) is None


def test_altered_snapshot_is_not_passed_over(log: Path) -> None:
    """Going on from before somebody's change would hide it."""
    newest = log / "__session__" / "3" / "4_record"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.raises(SotaError) as raised:
        find_resume_point(log)
    assert raised.value.slug == "snapshot-altered"


def test_steps_are_looked_at_as_they_are_printed(log: Path) -> None:
    """Each step that is printed comes with what the session says at that moment; other lines say nothing."""
    seen: list[Progress] = []
    watcher = Watcher(log, Progress(MODEL, 4), seen.append)
    watcher.read("loading")
    watcher.read("Start Loop 3, Step 2: running")
    assert [(one.step, one.finished) for one in seen] == [(Step(3, 2, "running"), 4)]


def test_half_written_log_keeps_the_last_look(log: Path) -> None:
    """A session that cannot be read at this moment does not end the run."""
    seen: list[Progress] = []
    shutil.rmtree(log / "__session__")
    (log / "__session__").write_text("")
    Watcher(log, Progress(MODEL, 4, finished=2), seen.append).read("Start Loop 2, Step 0: direct_exp_gen")
    assert seen[0].finished == 2


def test_reasons_are_kept_by_loop(tmp_path: Path) -> None:
    """The last reason is that of the loop's last attempt."""
    output = tmp_path / "model.txt"
    output.write_text("Skip loop 1 due to one\nStart Loop 1, Step 2: running\nSkip loop 1 due to two\n")
    assert skip_reasons(output) == {1: "two"}
    assert skip_reasons(tmp_path / "none.txt") == {}

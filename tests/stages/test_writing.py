"""A log that is still being written."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.lock import hold_lock, require_settled
from rdagent_sota_patch.stages.state import StageName, StageState, read_state, write_state
from tests.stages.conftest import begin


@pytest.fixture
def log(prepared: Path, project: Path) -> Path:
    return Path(shutil.copytree(prepared / "factor" / "log" / "run", project / "log" / "mined"))


def test_quiet_log_is_settled(log: Path) -> None:
    """A finished run's log passes."""
    require_settled(log, pause=0.01)


def test_new_snapshot_between_two_looks_is_noticed(log: Path) -> None:
    """Another process adds a step meanwhile."""
    later = log / "__session__" / "3" / "0_direct_exp_gen"
    later.parent.mkdir()
    timer = threading.Timer(0.1, later.write_bytes, [b"a step"])
    timer.start()
    with pytest.raises(SotaError, match="3/0_direct_exp_gen changed") as raised:
        require_settled(log, pause=0.5)
    timer.join()
    assert raised.value.slug == "log-being-written"


def test_log_of_a_run_at_work_is_noticed(log: Path) -> None:
    """Between two snapshots, too, where the run's lock is held."""
    folder = begin()
    write_state(folder, read_state(folder).with_stage(StageName.FACTOR, StageState(log=log.absolute())))
    require_settled(log, pause=0.01)
    with hold_lock(folder), pytest.raises(SotaError, match="still going on") as raised:
        require_settled(log, pause=0.01)
    assert raised.value.slug == "log-being-written"

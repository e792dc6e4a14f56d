"""One process at a time in a run's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages import lock
from rdagent_sota_patch.stages.lock import LOCK_NAME, hold_lock, is_locked


def hold_elsewhere(folder: Path) -> subprocess.Popen[str]:
    code = (
        "import sys, time; from pathlib import Path; from rdagent_sota_patch.stages.lock import hold_lock\n"
        "with hold_lock(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_second_is_refused_and_told_who_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in one folder would write one log; killing the first frees it at once."""
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    with hold_elsewhere(tmp_path) as process:
        assert is_locked(tmp_path)
        with pytest.raises(SotaError, match=f"process {process.pid}") as raised, hold_lock(tmp_path):
            pass
        assert raised.value.slug == "run-in-use"
        process.kill()
    with hold_lock(tmp_path):
        pass


def test_lock_file_of_a_dead_process_blocks_nothing(tmp_path: Path) -> None:
    """The file stays behind, the lock does not."""
    (tmp_path / LOCK_NAME).write_text("process 1 on elsewhere, long ago, with a very long text")
    assert not is_locked(tmp_path)
    with hold_lock(tmp_path):
        assert is_locked(tmp_path)
        assert (tmp_path / LOCK_NAME).read_text().startswith(f"process {os.getpid()} on ")
        assert "long ago" not in (tmp_path / LOCK_NAME).read_text()
    assert not is_locked(tmp_path)


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """No lock, no run."""
    with pytest.raises(SotaError) as raised, hold_lock(tmp_path / "none"):
        pass
    assert raised.value.slug == "cannot-write"

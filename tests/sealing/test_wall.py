"""Programs behind the wall find the covers, whatever path they open."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from rdagent_sota_patch.sealing.wall import can_wall, wall_command

pytestmark = pytest.mark.skipif(not can_wall(), reason="this system lets no program have mounts of its own")


@pytest.fixture
def covers(tmp_path: Path) -> Path:
    """An original with its copy, and a store in which one folder is kept."""
    for name in ("whole", "sealed", "store/own", "store/other", "empty/own"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "empty" / "own" / "file").unlink()
    pairs = [("sealed", "whole"), ("empty", "store"), ("store/own", "store/own"), ("empty", "not there")]
    path = tmp_path / "covers.json"
    path.write_text(
        json.dumps([[str(tmp_path / source), str(tmp_path / target)] for source, target in pairs])
    )
    return path


def behind(covers: Path, command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a shell command behind the wall."""
    whole = f"{wall_command(covers)} /bin/sh -c '{command}'"
    return subprocess.run(whole, shell=True, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_covered_folder_shows_its_copy(covers: Path, tmp_path: Path) -> None:
    """By its whole path, by a relative one, and from a working folder beneath a cover."""
    assert behind(covers, f"cat {tmp_path}/whole/file").stdout == "sealed"
    inside = behind(covers, "cat ../other/file ../../whole/file; ls ..", tmp_path / "store" / "own")
    assert inside.stdout.strip() == "sealedown"
    assert (tmp_path / "whole" / "file").read_text() == "whole"


def test_what_is_kept_can_be_written(covers: Path, tmp_path: Path) -> None:
    """A run's own workspace is the real one."""
    assert behind(covers, f"echo done > {tmp_path}/store/own/result").returncode == 0
    assert (tmp_path / "store" / "own" / "result").read_text() == "done\n"


def test_a_cover_stays_on(covers: Path, tmp_path: Path) -> None:
    """Not to be unmounted, and no other process's view can be taken."""
    around = (
        f"umount {tmp_path}/whole; cat {tmp_path}/whole/file /proc/{os.getpid()}/root{tmp_path}/whole/file"
    )
    assert behind(covers, around).stdout == "sealed"


def test_the_command_is_itself(covers: Path) -> None:
    """Its exit code, its user and its output are its own."""
    ended = behind(covers, "id -u; exit 7")
    assert (ended.returncode, ended.stdout.strip()) == (7, str(os.getuid()))


def test_nothing_runs_without_its_covers(covers: Path) -> None:
    """A copy that is gone is no reason to show the original."""
    covers.write_text(json.dumps([["/not/there", "/tmp"]]))
    ended = behind(covers, "echo ran")
    assert (ended.returncode, ended.stdout) == (126, "")
    assert "the sealed days cannot be hidden" in ended.stderr

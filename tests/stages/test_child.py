"""A guarded command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdagent_sota_patch.stages.stage import follow
from tests.stages.conftest import wait_until_gone


def run_shell(script: str, folder: Path, lines: list[str] | None = None) -> int:
    with (folder / "lock").open("w") as lock:
        return follow(
            ["/bin/sh", "-c", script],
            cwd=folder,
            variables={"PATH": os.defpath},
            output_file=folder / "output.txt",
            on_line=(lines if lines is not None else []).append,
            lock=lock.fileno(),
        )


def test_output_is_added_and_read_along(tmp_path: Path) -> None:
    """A second call keeps what the first one printed; both streams are written down."""
    lines: list[str] = []
    assert run_shell("echo one; echo two >&2", tmp_path, lines) == 0
    assert run_shell("echo three; exit 7", tmp_path, lines) == 7
    assert lines == ["one\n", "two\n", "three\n"]
    assert (tmp_path / "output.txt").read_text() == "one\ntwo\nthree\n"


def test_signal_is_an_exit_code(tmp_path: Path) -> None:
    """As a shell tells it."""
    assert run_shell("kill -9 $$", tmp_path) == 128 + 9


def test_what_the_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    """A process in the background does not keep the stage from ending."""
    started = time.monotonic()
    assert run_shell("sleep 30 & echo $!", tmp_path) == 0
    assert time.monotonic() - started < 10
    wait_until_gone(int((tmp_path / "output.txt").read_text()))


def test_a_group_of_its_own_does_not_save_what_is_left_behind(tmp_path: Path) -> None:
    """RD-Agent runs back-tests under ``timeout``, which leaves the command's process group."""
    assert run_shell("timeout 30 sleep 30 & echo $!", tmp_path) == 0
    wait_until_gone(int((tmp_path / "output.txt").read_text()))


def test_failure_here_ends_the_command(tmp_path: Path) -> None:
    """Ctrl-C, or any error while a line is read, leaves nothing running."""

    class Stop(Exception):
        pass

    def stop(line: str) -> None:
        raise Stop(line)

    with (tmp_path / "lock").open("w") as lock, pytest.raises(Stop) as raised:
        follow(
            ["/bin/sh", "-c", "echo $$; sleep 30"],
            cwd=tmp_path,
            variables={"PATH": os.defpath},
            output_file=tmp_path / "output.txt",
            on_line=stop,
            lock=lock.fileno(),
        )
    wait_until_gone(int(str(raised.value)))


def test_killed_asker_takes_the_command_along(tmp_path: Path) -> None:
    """After kill -9 of the one process, neither the command nor what it started goes on."""
    code = (
        "import os, sys; from pathlib import Path; from rdagent_sota_patch.stages.stage import follow\n"
        "folder = Path(sys.argv[1])\n"
        "follow(['/bin/sh', '-c', 'echo $$; timeout 30 sleep 30 & echo $!; wait'], cwd=folder,"
        " variables={'PATH': os.defpath}, output_file=folder / 'output.txt',"
        " on_line=lambda line: print(line, end='', flush=True), lock=os.open(folder / 'lock', os.O_CREAT))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as asker:
        assert asker.stdout is not None
        pids = [int(asker.stdout.readline()) for _ in range(2)]
        asker.kill()
    for pid in pids:
        wait_until_gone(pid)

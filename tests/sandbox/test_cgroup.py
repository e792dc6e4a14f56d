"""A group of the kernel's that counts a program together: found where it may be made, made, bounded and removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_patch.sandbox import cgroup, supervision
from rdagent_sota_patch.sandbox.cgroup import Group, find_parent, make_group
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.probe import what_confines
from rdagent_sota_patch.sandbox.supervision import Ending

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has them")


def tree(root: Path, **controllers: str) -> str:
    """A mount with groups in each other, outermost first; which of them pass on what."""
    place = root
    for name, passed_on in {"": "", **controllers}.items():
        place = place / name
        place.mkdir(exist_ok=True)
        (place / "cgroup.subtree_control").write_text(passed_on)
        (place / "cgroup.procs").write_text("")
    return f"22 1 0:1 / /proc rw - proc proc rw\n30 1 0:2 / {root} rw,nosuid - cgroup2 cgroup2 rw\n"


def test_the_nearest_group_that_counts_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process's own holds processes, so that the kernel allows no further ones in it; its parent may."""
    monkeypatch.setattr(cgroup, "_SYSTEMD", tmp_path / "none")
    mounts = tree(tmp_path, user="memory", app="cpu memory pids", own="")
    assert find_parent(mounts, "1:name=systemd:/x\n0::/user/app/own\n") == tmp_path / "user" / "app"
    assert find_parent(mounts, "0::/user/app\n") == tmp_path / "user" / "app"


@pytest.mark.parametrize("membership", ["", "4:memory:/user\n", "0::/other\n"])
def test_no_group_where_memory_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str
) -> None:
    """Version 1, or no controller passed on; and the mount's own parents are no groups."""
    monkeypatch.setattr(cgroup, "_SYSTEMD", tmp_path / "none")
    (tmp_path / "cgroup.subtree_control").write_text("memory")
    root = tmp_path / "mount"
    root.mkdir()
    assert find_parent(tree(root, user="cpu"), membership or "0::/user\n") is None


def test_what_systemd_manages_for_root_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks others to make no groups in its own; a user's session is given to the user."""
    mounts = tree(tmp_path, app="memory")
    monkeypatch.setattr(cgroup, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_parent(mounts, "0::/app\n") is None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert find_parent(mounts, "0::/app\n") == tmp_path / "app"


def test_a_group_ends_with_everything_in_it() -> None:
    """A real one, of whatever the kernel counts there."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [Path(line.split()[4]) for line in mounts if " - cgroup2 " in line]
    try:
        group = make_group(places[0])
    except (IndexError, OSError):
        pytest.skip("this user may make no group")
    assert (group.folder / "cgroup.procs").read_text() == ""
    sleeper = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '300']); print(flush=True); time.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", sleeper],
        stdout=subprocess.PIPE,
        preexec_fn=group.enter,  # noqa: PLW1509 - it must be in the group before it starts another
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert len((group.folder / "cgroup.procs").read_text().split()) == 2
        if not (group.folder / "cgroup.kill").exists():
            process.kill()
        group.remove()
        assert process.wait(10) == -9
        assert not group.folder.exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_what_the_kernel_ended_is_known_from_its_count(tmp_path: Path) -> None:
    """A program that failed by itself was not ended by it."""
    group = Group(tmp_path)
    assert not group.ran_out_of_memory()
    for count in (0, 3):
        (tmp_path / "memory.events").write_text(f"low 0\nmax 9\noom 1\noom_kill {count}\noom_group_kill 0\n")
        assert group.ran_out_of_memory() == bool(count)


@pytest.mark.skipif(not what_confines().cgroup, reason="here no group can be made whose memory is counted")
def test_the_kernel_counts_memory_without_being_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes with 60 MB each, of which none is over the limit; and buffers of sockets."""
    monkeypatch.setattr(supervision, "_LOOK_EVERY", 1000.0)
    sockets = (
        "import socket\nfor _ in range(450):\n    p = socket.socketpair(); p[0].setblocking(False); keep.append(p)\n"
        "    try:\n        while True: p[0].send(bytes(65536))\n    except BlockingIOError: pass\n"
    )
    with Jail() as jail:
        for use in ("x = bytearray(b'1' * 60_000_000)\n", sockets):
            forks = "import os, time\nkeep = []\nfor _ in range(8):\n    if os.fork() == 0: break\n"
            ended = jail.attempt(
                f"{forks}{use}time.sleep(60)", limits=Limits(seconds=50, memory_mb=200)
            ).ended
            assert ended.ending is Ending.OVER_MEMORY
        assert jail.run("print('fine')").log == "fine\n"
    assert not list(Path(what_confines().cgroup).glob("rdagent-sota-*"))

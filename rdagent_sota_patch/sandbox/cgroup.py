"""A control group (version 2) of a confined program's own: the kernel counts all of it together, and ends it at once.

It is made only beside this process's own group, where its user may make groups already and the kernel counts memory in
them: nothing of an existing group is changed, and the new one is removed after the run. A group that systemd manages
for root is left alone. Numbers of files in ``Documentation/admin-guide/cgroup-v2.rst``.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PREFIX = "rdagent-sota-"
_SYSTEMD = Path("/run/systemd/system")
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Group:
    """A group of processes.

    Attributes:
        folder: Its folder in the kernel's file system.
    """

    folder: Path

    def bound(self, memory: int, processes: int) -> None:
        """Have the kernel end all of it beyond so many bytes, and start no more than so many processes and threads.

        Raises:
            OSError: The kernel counts no memory here.
        """
        self._write("memory.max", memory)
        for name, value in (("memory.swap.max", 0), ("memory.oom.group", 1), ("pids.max", processes)):
            with suppress(
                FileNotFoundError
            ):  # Without swap, before Linux 4.19, where starts are not counted.
                self._write(name, value)

    def enter(self) -> None:
        """Put this process into it, with all that it starts."""
        self._write("cgroup.procs", 0)

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel ended something in it for its memory."""
        with suppress(OSError):
            counts = dict(line.split() for line in (self.folder / "memory.events").read_text().splitlines())
            return int(counts.get("oom_kill", 0)) > 0
        return False

    def remove(self) -> None:
        """End what is in it, and remove it."""
        with suppress(
            OSError
        ):  # Before Linux 5.14; who ends the program has ended it by its process numbers.
            self._write("cgroup.kill", 1)
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:  # What was ended takes a moment to be gone.
                time.sleep(0.01)
            else:
                return

    def _write(self, name: str, value: int) -> None:
        # Not made again where it does not exist, nor cut.
        with (self.folder / name).open("r+b", buffering=0) as file:
            file.write(str(value).encode())


def make_group(parent: Path) -> Group:
    """A new, empty group.

    Raises:
        OSError: This user may not make one there.
    """
    return Group(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)))


def find_parent(mounts: str, membership: str) -> Path | None:
    """Where this process may make a group whose memory is counted; None where it may not.

    Args:
        mounts: ``/proc/self/mountinfo``.
        membership: ``/proc/self/cgroup``.
    """
    if os.geteuid() == 0 and _SYSTEMD.is_dir():
        return None
    own = _own_folder(mounts, membership)
    if own is None:
        return None
    root, folder = own
    for place in (folder, *folder.parents):
        with suppress(OSError):
            counted = (place / "cgroup.subtree_control").read_text().split()
            if (
                "memory" in counted
                and os.access(place, os.W_OK)
                and os.access(place / "cgroup.procs", os.W_OK)
            ):
                return place
        if place == root:
            break
    return None


def _own_folder(mounts: str, membership: str) -> tuple[Path, Path] | None:
    """Where the groups are mounted, and this process's own."""
    paths = [line[3:] for line in membership.splitlines() if line.startswith("0::")]
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if paths and after.split()[:1] == ["cgroup2"]:
            shown, mounted = before.split()[3:5]
            if Path(paths[0]).is_relative_to(shown):
                return Path(mounted), Path(mounted) / Path(paths[0]).relative_to(shown)
    return None


def try_parent() -> str:
    """Where this process may make groups, as tried by making one and entering it in a fork; empty where it may not."""
    proc = Path("/proc/self")
    with suppress(OSError):
        parent = find_parent((proc / "mountinfo").read_text(), (proc / "cgroup").read_text())
        if parent is not None:
            group = make_group(parent)
            try:
                group.bound(1 << 30, 100)
                child = os.fork()
                if child == 0:
                    os._exit(_can_enter(group))
                if os.waitpid(child, 0)[1] == 0:
                    return str(parent)
            finally:
                group.remove()
    return ""


def _can_enter(group: Group) -> int:
    try:
        group.enter()
    except OSError:
        return 1
    return 0

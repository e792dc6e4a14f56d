"""Namespaces: no network, no other process to be seen, and all of it gone with its first process."""

from __future__ import annotations

import os
from pathlib import Path

from rdagent_sota_patch.sandbox import kernel

_NEW_USER = 0x10000000
_NEW_PID = 0x20000000
_NEW_NET = 0x40000000
_NEW_IPC = 0x08000000

# Not 0: as root of its namespace the program would get that namespace's rights back on starting.
_INSIDE = 1000


def enter_namespaces() -> None:
    """Let this process's *children* live in namespaces of their own; files keep their owner.

    The first child is process 1 in there, and the kernel ends every other one with it. The network is
    one without a single interface up.

    Raises:
        OSError: Where a system has none, or has them for root alone.
    """
    user, group = os.geteuid(), os.getegid()
    kernel.unshare(_NEW_USER | _NEW_PID | _NEW_NET | _NEW_IPC)
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{_INSIDE} {user} 1")
    (own / "gid_map").write_text(f"{_INSIDE} {group} 1")

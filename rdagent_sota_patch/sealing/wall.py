"""Start a program that finds a sealed copy, or nothing, where a folder with sealed days is.

Each folder is covered by another one in a mount namespace of the program's own: whatever path it opens, written out
in a template or put together by an LLM's code, the days are not there. For Linux, as root or where users may make
namespaces. Run as a script it takes a file with the covers (JSON: pairs of source and target) and a command.
Imports only the standard library, to start at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_BIND, _REC, _PRIVATE = 4096, 16384, 1 << 18
_PR_CAPBSET_DROP = 24
_CAP_SYS_PTRACE, _CAP_SYS_ADMIN = 19, 21
"""With the first, another process's view could be taken; with the second, a cover could be taken off."""


def wall_command(covers: Path) -> str:
    """What a shell has to start a command with, so that it is behind the wall."""
    return shlex.join([sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(covers)])


@cache
def can_wall() -> bool:
    """Whether this system lets a program have mounts of its own; tried once, in a process that ends with it."""
    if sys.platform != "linux":
        return False
    tried = subprocess.run(
        [sys.executable, "-I", "-S", str(Path(__file__).resolve()), os.devnull, "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def main(arguments: Sequence[str]) -> NoReturn:
    """Put the covers on, and become the command."""
    covers, *command = arguments
    text = Path(covers).read_text(encoding="utf-8")
    try:
        _cover([(str(source), str(target)) for source, target in json.loads(text or "[]")])
    except OSError as error:
        # As a shell that could not run it: nothing ran.
        sys.stderr.write(f"rdagent-sota-patch: the sealed days cannot be hidden: {error}\n")
        raise SystemExit(126) from None
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"rdagent-sota-patch: {command[0]}: {error.strerror}\n")
        raise SystemExit(127) from None


def _cover(covers: Sequence[tuple[str, str]]) -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", ctypes.c_int(_NEW_MOUNTS))
    except OSError:
        _call("unshare", ctypes.c_int(_NEW_USER | _NEW_MOUNTS))
        own = Path("/proc/self")
        (own / "setgroups").write_text("deny")
        (own / "uid_map").write_text(f"{user} {user} 1")
        (own / "gid_map").write_text(f"{group} {group} 1")
    # Nothing that is mounted from here on shows outside.
    _mount(None, "/", _REC | _PRIVATE)
    # A source may lie beneath a cover.
    sources = [os.open(source, os.O_PATH | os.O_CLOEXEC) for source, _ in covers]
    for descriptor, (_, target) in zip(sources, covers, strict=True):
        if Path(target).is_dir():
            _mount(f"/proc/self/fd/{descriptor}", target, _BIND | _REC)
        os.close(descriptor)
    # The working folder is still the one beneath the covers, and so would be its "..".
    os.chdir(Path.cwd())
    if user == 0:
        for capability in (_CAP_SYS_PTRACE, _CAP_SYS_ADMIN):
            _call(
                "prctl", ctypes.c_int(_PR_CAPBSET_DROP), ctypes.c_ulong(capability), *[ctypes.c_ulong(0)] * 3
            )


def _mount(source: str | None, target: str, flags: int) -> None:
    _call(
        "mount",
        ctypes.c_char_p(None if source is None else os.fsencode(source)),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_char_p(None),
        ctypes.c_ulong(flags),
        ctypes.c_void_p(None),
    )


def _call(name: str, *arguments: ctypes._SimpleCData[int] | object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])

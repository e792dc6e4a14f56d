"""System calls that Python has no name for.

Imports nothing but the standard library's lightest: the launcher loads it for every confined run.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

LINUX = sys.platform == "linux"


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def system_call(number: int, *arguments: ctypes._SimpleCData[int] | object) -> int:
    """Call the kernel by number.

    Raises:
        OSError: What the kernel answered.
    """
    function = _libc().syscall
    function.restype = ctypes.c_long
    answer = int(function(ctypes.c_long(number), *arguments))
    if answer < 0:
        raise _last_error(f"system call {number}")
    return answer


def process_control(option: int, *arguments: ctypes._SimpleCData[int] | object) -> None:
    """``prctl``.

    Raises:
        OSError: What the kernel answered.
    """
    full = [*arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))]
    if _libc().prctl(ctypes.c_int(option), *full) != 0:
        raise _last_error(f"prctl {option}")


def allow_no_new_privileges() -> None:
    """No program that this process becomes gains rights by its file; Landlock and seccomp ask for it."""
    process_control(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, however it detached itself."""
    process_control(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends before it."""
    process_control(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def drop_capabilities() -> None:
    """Give up root's privileges; other users have none."""
    process_control(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_CLEAR_ALL))

    class Header(ctypes.Structure):
        _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))

    header = Header(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc().capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        raise _last_error("capset")


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` names for new ones.

    Raises:
        OSError: What the kernel answered.
    """
    if _libc().unshare(ctypes.c_int(flags)) != 0:
        raise _last_error("unshare")


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")

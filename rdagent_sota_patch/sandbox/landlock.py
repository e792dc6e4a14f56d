"""Landlock: which files a program may read and write, by the kernel's own rule (Linux 5.13 and later).

Numbers from ``include/uapi/linux/landlock.h``. What Landlock does not rule (owners, modes, times) is
answered in `seccomp`.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from rdagent_sota_patch.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_SOCK, _MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15

# How many file rights each version of Landlock knows; later versions know those of the last.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NETWORK_RIGHTS = 0b11  # binding and connecting TCP, version 4
_SCOPES = 0b11  # abstract sockets and signals stay inside, version 6
_SIGNALS_SINCE = 6
TRUNCATE_SINCE = 3

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV


def landlock_version() -> int:
    """Version of the Landlock in the running kernel; 0 where there is none or it is switched off."""
    if not kernel.LINUX:
        return 0
    try:
        return kernel.system_call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError:
        return 0


def keeps_signals_inside(version: int) -> bool:
    """Whether a confined program can signal no process outside."""
    return version >= _SIGNALS_SINCE


def restrict_files(version: int, *, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Confine this process, and all it starts, to some files and folders, for good.

    A path that does not exist gives no right. Devices and sockets can be made nowhere.

    Args:
        version: What `landlock_version` said.
        readable: What may be read and executed; of a folder, all beneath it.
        writable: What may be changed besides.

    Raises:
        OSError: The kernel refused.
    """
    files = (1 << _FILE_RIGHTS[min(version, 5)]) - 1
    network = _NETWORK_RIGHTS if version >= 4 else 0
    scopes = _SCOPES if version >= 6 else 0
    # The kernel takes a shorter structure than it knows, and refuses a longer one with anything in the rest.
    attributes = struct.pack("=QQQ", files, network, scopes)[
        : 8 if version < 4 else 16 if version < 6 else 24
    ]
    ruleset = kernel.system_call(
        _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
    )
    all_but_devices = files & ~(_MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK | _IOCTL_DEV)
    try:
        for path in readable:
            _allow(ruleset, path, _READ)
        for path in writable:
            _allow(ruleset, path, all_but_devices)
        kernel.system_call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_A_FILE
        rule = struct.pack("=Qi", rights, descriptor)
        kernel.system_call(
            _ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)
        )
    finally:
        os.close(descriptor)

"""seccomp: which system calls a confined program may make.

The list is of what does harm *without* any privilege, for the launcher gives all of those up: sockets of every
kind, memory that no limit sees, other processes, new namespaces, and what Landlock leaves open.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass

from rdagent_sota_patch.confinement import kernel

_SET_FILTER, _WITH_LISTENER = 1, 1 << 3

# Instructions of the classic BPF machine, and where seccomp_data holds what.
_LOAD, _AND, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL, _ANSWER, _ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
_X32 = 0x40000000  # a second set of numbers for the same calls on x86-64

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}

# Numbers on x86-64 and on 64-bit ARM; None where a call does not exist.
_Numbers = tuple[int | None, int | None]
_REFUSED: dict[str, _Numbers] = {
    # The network, and local services such as an SSH agent, D-Bus or Docker.
    "socket": (41, 198),
    # It makes sockets and opens files without a system call of that name.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # Memory that belongs to no process, where no limit counts it.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # Other processes of the same user.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # The user's keys in the kernel.
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Namespaces give back rights that were given up.
    "unshare": (272, 97),
    "setns": (308, 268),
    # Doors into the kernel that a factor has no use for.
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "open_by_handle_at": (304, 265),
}
# "There is no such call": the C library then takes the older one, whose arguments can be seen here.
_UNKNOWN: dict[str, _Numbers] = {"clone3": (435, 435), "openat2": (437, 437)}
# Landlock does not rule them, and a copy made with `shutil.copy` must not fail: answered as if done.
_PRETENDED: dict[str, _Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
# How many processes and threads there are, no limit of the kernel bounds for root: these calls are asked about.
_STARTING: dict[str, _Numbers] = {"clone": (56, 220), "fork": (57, None), "vfork": (58, None)}
_SECCOMP: dict[str, int] = {"x86_64": 317, "aarch64": 277}
_TRUNCATE: _Numbers = (76, 45)
_SIGNALS: dict[str, _Numbers] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
}
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWUSER, NEWPID, NEWNET, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWTIME


@dataclass(frozen=True, slots=True)
class _Rule:
    """Answer ``number`` with ``answer``; with a ``mask`` only where argument ``argument`` & mask is as told."""

    number: int
    answer: int
    argument: int = 0
    mask: int = 0
    equal: int | None = None  # None: any bit of the mask


def knows_this_machine() -> bool:
    """Whether the numbers of this processor's system calls are known here."""
    return kernel.LINUX and platform.machine() in _ARCHITECTURES and sys.maxsize > 2**32


def restrict_calls(*, truncation: bool, signals: bool) -> int | None:
    """Take system calls from this process, and all it starts, for good.

    Whoever holds the descriptor that is returned has to answer each start of a process or thread, with
    `starts.StartCounter`; without its holder there is none.

    Args:
        truncation: Whether cutting a file by its path has to be refused here, as old Landlock does not.
        signals: Whether every signal has to be refused, as nothing else keeps them inside.

    Returns:
        The descriptor; None on a system where starts cannot be asked about, as in some containers.

    Raises:
        OSError: The kernel refused.
    """
    machine = platform.machine()
    rules = _rules(_COLUMN[machine], truncation=truncation, signals=signals)
    starting = [
        _Rule(number, _ASK)
        for number in (numbers[_COLUMN[machine]] for numbers in _STARTING.values())
        if number is not None
    ]
    try:
        return _install(machine, [*rules, *starting], _WITH_LISTENER)
    except OSError as error:
        # Somebody outside listens already, or the kernel is older than 5.0.
        if error.errno not in (errno.EBUSY, errno.EINVAL):
            raise
    _install(machine, rules, 0)
    return None


def _install(machine: str, rules: list[_Rule], flags: int) -> int:
    program = _program(_ARCHITECTURES[machine], rules)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    holder = Program(len(program) // 8, program)
    return kernel.system_call(
        _SECCOMP[machine], ctypes.c_uint(_SET_FILTER), ctypes.c_uint(flags), ctypes.byref(holder)
    )


def _rules(column: int, *, truncation: bool, signals: bool) -> list[_Rule]:
    def answering(number: int, calls: dict[str, _Numbers]) -> list[_Rule]:
        return [
            _Rule(n, _ANSWER | number)
            for n in (numbers[column] for numbers in calls.values())
            if n is not None
        ]

    rules = answering(errno.EPERM, _REFUSED) + answering(errno.ENOSYS, _UNKNOWN) + answering(0, _PRETENDED)
    clone, open_at, open_ = ((56, 257, 2), (220, 56, None))[column]
    rules.append(_Rule(clone, _ANSWER | errno.EPERM, argument=0, mask=_NEW_NAMESPACES))
    if truncation:
        rules += answering(errno.EACCES, {"truncate": _TRUNCATE})
    # Opened for reading alone and cut: to Landlock that is reading.
    cutting = {"answer": _ANSWER | errno.EACCES, "mask": os.O_TRUNC | os.O_ACCMODE, "equal": os.O_TRUNC}
    rules.append(_Rule(open_at, argument=2, **cutting))
    if open_ is not None:
        rules.append(_Rule(open_, argument=1, **cutting))
    if signals:
        rules += answering(errno.EPERM, _SIGNALS)
    return rules


def _program(architecture: int, rules: list[_Rule]) -> bytes:
    def step(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("=HBBI", code, then, otherwise, value)

    steps = [
        step(_LOAD, _ARCHITECTURE_AT),
        step(_EQUAL, architecture, then=1),
        step(_RETURN, _KILL),
        step(_LOAD, _NUMBER_AT),
    ]
    if architecture == _ARCHITECTURES["x86_64"]:
        steps += [step(_ANY_BIT, _X32, otherwise=1), step(_RETURN, _KILL)]
    for rule in rules:
        if not rule.mask:
            steps += [step(_EQUAL, rule.number, otherwise=1), step(_RETURN, rule.answer)]
            continue
        # Both machines are little-endian: the low half of an argument, where all flags are, comes first.
        load = step(_LOAD, _ARGUMENTS_AT + 8 * rule.argument)
        if rule.equal is None:
            test = [load, step(_ANY_BIT, rule.mask, otherwise=1)]
        else:
            test = [load, step(_AND, rule.mask), step(_EQUAL, rule.equal, otherwise=1)]
        test += [step(_RETURN, rule.answer), step(_LOAD, _NUMBER_AT)]
        steps += [step(_EQUAL, rule.number, otherwise=len(test)), *test]
    steps.append(step(_RETURN, _ALLOW))
    return b"".join(steps)

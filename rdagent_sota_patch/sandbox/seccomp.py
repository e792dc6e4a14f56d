"""seccomp: which system calls a confined program may make.

The list is of what does harm *without* any privilege, for the launcher gives all of those up: sockets of every
kind, memory and files that no limit sees, other processes, new namespaces, and what Landlock leaves open.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass

from rdagent_sota_patch.sandbox import kernel

_SET_FILTER, _WITH_LISTENER = 1, 1 << 3

# Instructions of the classic BPF machine, and where seccomp_data holds what.
_LOAD, _AND, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_ALLOW, _KILL, _ANSWER, _ASK = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FC00000
_REFUSE = _ANSWER | errno.EPERM
_X32 = 0x40000000  # a second set of numbers for the same calls on x86-64

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN = {"x86_64": 0, "aarch64": 1}

# Numbers on x86-64 and on 64-bit ARM; None where a call does not exist.
_Numbers = tuple[int | None, int | None]
_REFUSED: dict[str, _Numbers] = {
    # The network, and local services such as an SSH agent, D-Bus or Docker. A pair of sockets is allowed, to itself.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    # They send open files: one that is under way, deleted and closed takes room on the disk, and nothing shows it.
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
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
# "There is no such call": the caller then takes another way.
_UNKNOWN: dict[str, _Numbers] = {
    # The older ones' arguments can be seen here.
    "clone3": (435, 435),
    "openat2": (437, 437),
    # They keep memory or deleted files where nothing shows them: in pipes, in rules, in requests that wait.
    "sendfile": (40, 71),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "landlock_create_ruleset": (444, 444),
    "io_setup": (206, 0),
}
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
# What changes limits, priorities or scheduling of the process that an argument names; 0 is the caller.
_REACHING: dict[str, tuple[_Numbers, int]] = {
    "prlimit64": ((302, 261), 0),
    "setpriority": ((141, 140), 1),
    "ioprio_set": ((251, 30), 1),
    "sched_setparam": ((142, 118), 0),
    "sched_setscheduler": ((144, 119), 0),
    "sched_setaffinity": ((203, 122), 0),
    "sched_setattr": ((314, 274), 0),
    "migrate_pages": ((256, 238), 0),
    "move_pages": ((279, 239), 0),
}
_ALL_OF_A_USER = {"setpriority": 2, "ioprio_set": 3}  # PRIO_USER, IOPRIO_WHO_USER, in their first argument
# Whom a file's news are signalled to, and by which signal: fcntl's F_SETOWN, F_SETSIG, F_SETOWN_EX; ioctl's
# FIOSETOWN, SIOCSPGRP.
_OWNERS: dict[str, tuple[_Numbers, tuple[int, ...]]] = {
    "fcntl": ((72, 25), (8, 10, 15)),
    "ioctl": ((16, 29), (0x8901, 0x8902)),
}
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEWUSER, NEWPID, NEWNET, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWTIME

_THREAD, _FILES = 0x00010000, 0x00000400
_CLOSE_RANGE, _CLOSE_RANGE_UNSHARE = 436, 2
_AF_UNIX = 1
_SHARED_ANONYMOUS = 0x21
_NO_MEMORY = _ANSWER | errno.ENOMEM
SHARED_BYTES = 1 << 20
"""Less than this may be one piece of memory that processes share; `consumption` counts each as so much."""
_PR_SET_DUMPABLE, _PR_SCHED_CORE = 4, 62


@dataclass(frozen=True, slots=True)
class _Test:
    """Whether an argument & ``mask`` is ``equal``; without that, whether it has any bit of the mask.

    An argument's low half is looked at, where all flags and numbers of processes are; ``high`` is for addresses and
    sizes.
    """

    argument: int
    mask: int = 0xFFFFFFFF
    equal: int | None = None
    unless: bool = False  # Whether it is *not* equal.
    high: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    """Answer the call ``number`` with ``answer`` where all tests hold."""

    number: int
    answer: int
    tests: tuple[_Test, ...] = ()


def knows_this_machine() -> bool:
    """Whether the numbers of this processor's system calls are known here."""
    return kernel.LINUX and platform.machine() in _ARCHITECTURES and sys.maxsize > 2**32


def ask_about_calls(*, others: bool) -> int | None:
    """Have this process, and all it starts, ask before some calls, for good.

    The holder of the returned descriptor has to answer, with `asked_calls.AskedCalls`; once it is closed,
    these calls fail.

    Args:
        others: Whether what reaches other processes is asked about, besides each start of a process or thread.

    Returns:
        The descriptor; None on a system where calls cannot be asked about, as in some containers.

    Raises:
        OSError: The kernel refused.
    """
    machine = platform.machine()
    column = _COLUMN[machine]
    rules = _answering(column, _ASK, _STARTING)
    if others:
        rules += _reaching(column, _ASK)
    try:
        return _install(machine, rules, _WITH_LISTENER)
    except OSError as error:
        # Somebody outside listens already, or the kernel is older than 5.0.
        if error.errno not in (errno.EBUSY, errno.EINVAL):
            raise
    return None


def refuse_calls(*, truncation: bool, signals: bool, others: bool, asked: bool) -> None:
    """Take system calls from this process, and all it starts, for good.

    Args:
        truncation: Whether cutting a file by its path has to be refused here, as old Landlock does not.
        signals: Whether every signal has to be refused, as nothing else keeps them inside.
        others: Whether other processes can be seen, so that what reaches them has to be refused.
        asked: Whether `ask_about_calls` has been answered for: what concerns the caller itself is then let through.

    Raises:
        OSError: The kernel refused.
    """
    machine = platform.machine()
    column = _COLUMN[machine]
    rules = _rules(column, truncation=truncation, signals=signals)
    if others:
        rules += _owners(column)
        rules += [
            _Rule(_numbers(column, {name: _REACHING[name][0]})[0], _REFUSE, (_Test(0, equal=whose),))
            for name, whose in _ALL_OF_A_USER.items()
        ]
        if not asked:
            rules += _reaching(column, _REFUSE)
    _install(machine, rules, 0)


def starting_calls() -> frozenset[int]:
    """The numbers of the calls that start a process or thread."""
    return frozenset(_numbers(_COLUMN[platform.machine()], _STARTING))


def naming_argument(number: int) -> int | None:
    """Which argument of a call that is asked about names the process that it reaches."""
    column = _COLUMN[platform.machine()]
    return {numbers[column]: argument for numbers, argument in _REACHING.values()}.get(number)


def _install(machine: str, rules: list[_Rule], flags: int) -> int:
    program = _program(_ARCHITECTURES[machine], rules)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    holder = Program(len(program) // 8, program)
    return kernel.system_call(
        _SECCOMP[machine], ctypes.c_uint(_SET_FILTER), ctypes.c_uint(flags), ctypes.byref(holder)
    )


def _numbers(column: int, calls: dict[str, _Numbers]) -> list[int]:
    return [number for numbers in calls.values() if (number := numbers[column]) is not None]


def _answering(column: int, answer: int, calls: dict[str, _Numbers]) -> list[_Rule]:
    return [_Rule(number, answer) for number in _numbers(column, calls)]


def _reaching(column: int, answer: int) -> list[_Rule]:
    return [
        _Rule(number, answer, (_Test(argument),))
        for numbers, argument in _REACHING.values()
        if (number := numbers[column]) is not None
    ]


def _owners(column: int) -> list[_Rule]:
    return [
        _Rule(number, _REFUSE, (_Test(1, equal=command),))
        for numbers, commands in _OWNERS.values()
        if (number := numbers[column]) is not None
        for command in commands
    ]


def _rules(column: int, *, truncation: bool, signals: bool) -> list[_Rule]:
    rules = [
        *_answering(column, _REFUSE, _REFUSED),
        *_answering(column, _ANSWER | errno.ENOSYS, _UNKNOWN),
        *_answering(column, _ANSWER, _PRETENDED),
    ]
    clone, open_at, open_ = ((56, 257, 2), (220, 56, None))[column]
    socketpair, send_to, mmap, prctl = ((53, 44, 9, 157), (199, 206, 222, 167))[column]
    shared = _Test(3, _SHARED_ANONYMOUS, equal=_SHARED_ANONYMOUS)
    rules += [
        _Rule(clone, _REFUSE, (_Test(0, _NEW_NAMESPACES),)),
        # Threads with open files of their own: those of a process are looked for in one place.
        _Rule(clone, _REFUSE, (_Test(0, _THREAD | _FILES, equal=_THREAD),)),
        _Rule(_CLOSE_RANGE, _REFUSE, (_Test(2, _CLOSE_RANGE_UNSHARE),)),
        _Rule(socketpair, _REFUSE, (_Test(0, equal=_AF_UNIX, unless=True),)),
        # A datagram to the address of a service.
        _Rule(send_to, _REFUSE, (_Test(4),)),
        _Rule(send_to, _REFUSE, (_Test(4, high=True),)),
        # Memory that a process can unmap without giving it back.
        _Rule(mmap, _NO_MEMORY, (shared, _Test(1, ~(SHARED_BYTES - 1) & 0xFFFFFFFF))),
        _Rule(mmap, _NO_MEMORY, (shared, _Test(1, high=True))),
        _Rule(prctl, _REFUSE, (_Test(0, equal=_PR_SET_DUMPABLE),)),
        _Rule(prctl, _REFUSE, (_Test(0, equal=_PR_SCHED_CORE),)),
    ]
    if truncation:
        rules += _answering(column, _ANSWER | errno.EACCES, {"truncate": _TRUNCATE})
    # Opened for reading alone and cut: to Landlock that is reading.
    for number, flags in ((open_at, 2), (open_, 1)):
        if number is not None:
            cutting = _Test(flags, os.O_TRUNC | os.O_ACCMODE, equal=os.O_TRUNC)
            rules.append(_Rule(number, _ANSWER | errno.EACCES, (cutting,)))
    if signals:
        rules += _answering(column, _REFUSE, _SIGNALS)
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
        # Made from the end, since each failed test jumps there: to where the number is loaded again.
        own = [step(_RETURN, rule.answer)]
        if rule.tests:
            own.append(step(_LOAD, _NUMBER_AT))
        for test in reversed(rule.tests):
            past = len(own) - 1
            # Both machines are little-endian: the low half of an argument comes first.
            load = step(_LOAD, _ARGUMENTS_AT + 8 * test.argument + 4 * test.high)
            if test.equal is None:
                own = [load, step(_ANY_BIT, test.mask, otherwise=past), *own]
            else:
                jumps = {"then": past} if test.unless else {"otherwise": past}
                own = [load, step(_AND, test.mask), step(_EQUAL, test.equal, **jumps), *own]
        steps += [step(_EQUAL, rule.number, otherwise=len(own)), *own]
    steps.append(step(_RETURN, _ALLOW))
    return b"".join(steps)

"""Calls that reach other processes, or hide things from the sums, are refused; what a program does to itself is not."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdagent_sota_patch.sandbox import jail as jail_module
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.probe import Confinement, what_confines
from rdagent_sota_patch.sandbox.seccomp import knows_this_machine
from rdagent_sota_patch.sandbox.supervision import Ending

pytestmark = pytest.mark.skipif(
    not (knows_this_machine() and what_confines().seccomp), reason="this system has no seccomp"
)

_BEGIN = """
import ctypes, errno, os, resource, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    answer = getattr(libc, name)(*arguments)
    return "done" if answer >= 0 else errno.errorcode[ctypes.get_errno()]

class Limit(ctypes.Structure):
    _fields_ = [("soft", ctypes.c_ulong), ("hard", ctypes.c_ulong)]
"""

X86 = os.uname().machine == "x86_64"


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=[0, 5, 7], ids=["no Landlock", "Landlock 5", "Landlock 7"])
def without_namespaces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system where the numbers of all processes can be seen."""
    if request.param > what_confines().landlock:
        pytest.skip(f"this kernel has no Landlock {request.param}")
    found = Confinement(request.param, namespaces=False, seccomp=True)
    monkeypatch.setattr(jail_module, "what_confines", lambda: found)


def answers(program: str) -> list[str]:
    with Jail() as jail:
        ended = jail.attempt(f"{_BEGIN}\n{program}", limits=Limits(seconds=120)).ended
    assert ended.ending is Ending.FINISHED, ended.log
    return ended.log.split()


@pytest.mark.usefixtures("without_namespaces")
def test_limits_and_priorities_of_others_stay(victim: subprocess.Popen[bytes]) -> None:
    """Of a process, of a group, and of all of the user's."""
    pid = victim.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, pid)
    io_priority = "251" if X86 else "30"
    asked = answers(
        f"print(call('prlimit', {pid}, 7, ctypes.byref(Limit(3, 3)), None))\n"
        f"print(call('prlimit', {pid}, 7, None, ctypes.byref(Limit())))\n"
        f"print(call('setpriority', 0, {pid}, 19))\n"
        f"print(call('setpriority', 1, {os.getpgid(pid)}, 19))\n"
        f"print(call('setpriority', 2, 0, 19), call('setpriority', 2, {os.getuid()}, 19))\n"
        f"print(call('sched_setaffinity', {pid}, 8, ctypes.byref(ctypes.c_ulong(1))))\n"
        f"print(call('sched_setscheduler', {pid}, 5, ctypes.byref(ctypes.c_int(0))))\n"
        f"print(call('sched_setparam', {pid}, ctypes.byref(ctypes.c_int(0))))\n"
        f"print(call('syscall', {io_priority}, 1, {pid}, 3 << 13 | 7))\n"
        f"print(call('syscall', {io_priority}, 3, 0, 3 << 13 | 7))\n"
    )
    assert set(asked) == {"EPERM"}
    assert (resource.prlimit(pid, resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, pid)) == before


@pytest.mark.usefixtures("without_namespaces")
@pytest.mark.parametrize(
    "become_owner",
    [
        "call('fcntl', end, 8, {pid})",
        "call('fcntl', end, 15, ctypes.byref((ctypes.c_int * 2)(1, {pid})))",
        "call('ioctl', end, 0x8901, ctypes.byref(ctypes.c_int({pid})))",
        "call('ioctl', end, 0x8902, ctypes.byref(ctypes.c_int({pid})))",
    ],
)
def test_no_news_of_a_file_are_signalled_to_others(
    victim: subprocess.Popen[bytes], become_owner: str
) -> None:
    """The kernel would send them, by any signal, in the name of the one who asked."""
    asked = answers(
        "a, b = socket.socketpair(); end = a.fileno()\n"
        f"print({become_owner.format(pid=victim.pid)}, call('fcntl', end, 10, 9))\n"
        "call('fcntl', end, 4, 0o20000 | os.O_NONBLOCK); b.send(b'x')\n"
    )
    assert asked == ["EPERM", "EPERM"]
    time.sleep(0.3)
    assert victim.poll() is None


@pytest.mark.usefixtures("without_namespaces")
def test_a_program_sets_its_own_limits_and_priorities() -> None:
    """By 0 or by its number, in a fork and in a thread as well: numerical libraries do."""
    asked = answers(
        "def own():\n"
        "    me, thread = os.getpid(), threading.get_native_id()\n"
        "    for which in (0, me):\n"
        "        resource.prlimit(which, resource.RLIMIT_NOFILE, (500, 500))\n"
        "        os.sched_setaffinity(which, os.sched_getaffinity(0))\n"
        "        os.setpriority(os.PRIO_PROCESS, which, os.getpriority(os.PRIO_PROCESS, 0))\n"
        "    os.sched_setaffinity(thread, os.sched_getaffinity(0))\n"
        "    resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.nice(0)\n"
        "    print('own', flush=True)\n"
        "own()\n"
        "thread = threading.Thread(target=own); thread.start(); thread.join()\n"
        "if os.fork() == 0: own(); os._exit(0)\n"
        "os.wait()\n"
    )
    assert asked == ["own"] * 3


def test_no_file_is_sent_away() -> None:
    """One that is under way, deleted and closed is held by nobody who could be looked at."""
    asked = answers(
        "a, b = socket.socketpair()\n"
        "try: socket.send_fds(a, [b'x'], [1])\n"
        "except PermissionError: print('refused')\n"
        "a.send(b'x'); print(b.recv(1))\n"
    )
    assert asked == ["refused", "b'x'"]


def test_no_datagram_reaches_a_local_service(tmp_path: Path) -> None:
    """A pair of sockets is allowed, and one of a pair could be turned to a system's log."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(tmp_path / "log"))
        service.setblocking(False)
        where = repr(str(tmp_path / "log"))
        asked = answers(
            "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            f"for way in (lambda: a.sendto(b'secret', {where}), lambda: a.connect({where}), lambda: b.bind('own')):\n"
            "    try: way(); print('done')\n"
            "    except PermissionError: print('refused')\n"
            "try: a.send(b'secret')\n"
            "except OSError: pass\n"
        )
        assert asked == ["refused"] * 3
        with pytest.raises(BlockingIOError):
            service.recv(100)


def test_no_other_kind_of_socket_comes_in_a_pair() -> None:
    """TIPC has pairs too, and reaches other machines."""
    assert answers("print(call('socketpair', 30, 1, 0, (ctypes.c_int * 2)()))") == ["EPERM"]


def test_nothing_is_kept_where_no_sum_sees_it() -> None:
    """Pages in pipes, open files of a thread's own, files in a rule, a process that cannot be looked at."""
    numbers = {"vmsplice": 278, "splice": 275, "tee": 276, "sendfile": 40, "io_setup": 206, "clone": 56}
    if not X86:
        numbers = {"vmsplice": 75, "splice": 76, "tee": 77, "sendfile": 71, "io_setup": 0, "clone": 220}
    asked = answers(
        f"for number in {[number for name, number in numbers.items() if name != 'clone']} + [444]:\n"
        "    print(call('syscall', number, 0, 0, 0, 0, 0, 0))\n"
        f"print(call('syscall', {numbers['clone']}, 0x10900, 0, 0, 0, 0))\n"
        "print(call('syscall', 436, 3, 4, 2), call('prctl', 4, 0, 0, 0, 0), call('prctl', 62, 1, 1, 0, 0))\n"
    )
    assert asked == ["ENOSYS"] * 6 + ["EPERM"] * 4


def test_files_are_copied_all_the_same() -> None:
    """Python takes another way where it may not send a file to a file."""
    asked = answers(
        "import shutil\n"
        "open('a', 'wb').write(bytes(3 * 10**6)); shutil.copyfile('a', 'b')\n"
        "shutil.copytree('.', 'c/d', ignore=lambda *_: ['c'])\n"
        "print(os.path.getsize('b'), os.path.getsize('c/d/a'))\n"
    )
    assert asked == ["3000000"] * 2

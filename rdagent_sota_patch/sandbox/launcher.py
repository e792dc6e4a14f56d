"""The process between us and a confined program: it puts the walls up, starts the program, and ends all of it.

Started with an order, one line of JSON, on its standard input, which stays open: when it closes, by a killed
asker as well, the program ends with everything it started. How it went is written to the descriptor that
the order names. Imports only the standard library and its neighbours, to start at once.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from rdagent_sota_patch.sandbox import kernel
from rdagent_sota_patch.sandbox.asked_calls import AskedCalls
from rdagent_sota_patch.sandbox.cgroup import Group, make_group
from rdagent_sota_patch.sandbox.consumption import parent_of, processes
from rdagent_sota_patch.sandbox.landlock import TRUNCATE_SINCE, keeps_signals_inside, restrict_files
from rdagent_sota_patch.sandbox.namespaces import enter_namespaces
from rdagent_sota_patch.sandbox.seccomp import ask_about_calls, refuse_calls

_MIB = 1024 * 1024
_OPEN_FILES = 1024
# Room for what is mapped and not used: reserved heaps of many threads, shared libraries, read-only files.
_MAPPED = 64 * 1024 * _MIB
_UNLIMITED = resource.RLIM_INFINITY


@dataclass(frozen=True, slots=True)
class Walls:
    """Which of the kernel's means to use: what the system was found to have."""

    landlock: int
    namespaces: bool
    seccomp: bool
    cgroup: str


@dataclass(frozen=True, slots=True)
class Order:
    """What to run, and how.

    Attributes:
        command: Program and arguments; the program by its whole path.
        variables: Its whole environment.
        folder: Where it runs, and all that it may write to.
        readable: What it may read besides.
        devices: What it may read and write besides, as ``/dev/null``.
        memory_mb, output_mb, threads: Limits that the kernel holds each process to.
        report: Descriptor to write the ending to.
    """

    command: list[str]
    variables: dict[str, str]
    folder: str
    readable: list[str]
    devices: list[str]
    memory_mb: int
    output_mb: int
    threads: int
    walls: Walls
    report: int

    def as_line(self) -> bytes:
        """The order as the launcher reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    """Carry out the order on standard input."""
    fields = json.loads(_read_line())
    order = Order(**{**fields, "walls": Walls(**fields["walls"])})
    os.set_inheritable(order.report, False)
    try:
        ending = _run(order)
    except OSError as error:
        ending = {"refused": str(error)}
    os.write(order.report, json.dumps(ending).encode())


def _run(order: Order) -> dict[str, object]:
    if not order.walls.cgroup:
        return _run_in(order, None)
    group = make_group(Path(order.walls.cgroup))
    try:
        group.bound(order.memory_mb * _MIB, order.threads + 1)
        return _run_in(order, group)
    finally:
        group.remove()


def _run_in(order: Order, group: Group | None) -> dict[str, object]:
    if kernel.LINUX:
        kernel.adopt_orphans()
    if order.walls.namespaces:
        enter_namespaces()
    signals, write_signals = os.pipe()
    os.set_blocking(write_signals, False)
    signal.set_wakeup_fd(write_signals)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # Closed by the start of the program; before that, it says what failed.
    failure, write_failure = os.pipe()
    inside, outside = socket.socketpair()
    child = os.fork()
    if child == 0:
        _become(order, group, write_failure, outside)
    os.close(write_failure)
    outside.close()
    try:
        _, listeners, *_ = socket.recv_fds(inside, 1, 1)
        status = _wait(child, signals, AskedCalls(listeners[0], order.threads) if listeners else None)
    finally:
        _end_all(child)
    refused = os.read(failure, 4096).decode(errors="replace")
    if refused:
        return {"refused": refused}
    if status and group is not None and group.ran_out_of_memory():
        return {"out_of_memory": True}
    return {"too_many": True} if status is None else {"code": os.waitstatus_to_exitcode(status)}


def _become(order: Order, group: Group | None, failure: int, outside: socket.socket) -> NoReturn:
    try:
        if group is not None:
            group.enter()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.setsid()
        os.chdir(order.folder)
        os.umask(0o077)
        _limit(order)
        if kernel.LINUX:
            kernel.end_with_parent()
            kernel.drop_capabilities()
            kernel.allow_no_new_privileges()
        walls = order.walls
        if walls.landlock:
            # Of all of /proc its own: that of others shows the user's environment and memory.
            restrict_files(
                walls.landlock,
                readable=[*order.readable, str(Path("/proc/self").resolve())],
                writable=[order.folder, *order.devices],
            )
        if walls.seccomp:
            others = not walls.namespaces
            listener = ask_about_calls(others=others)
            if listener is not None:
                socket.send_fds(outside, [b"l"], [listener])
            refuse_calls(
                truncation=walls.landlock < TRUNCATE_SINCE,
                signals=others and not keeps_signals_inside(walls.landlock),
                others=others,
                asked=listener is not None,
            )
        outside.close()
        os.execve(order.command[0], order.command, order.variables)
    except BaseException as error:  # noqa: BLE001 - the fork of a launcher may not go on whatever happens
        os.write(failure, f"{type(error).__name__}: {error}".encode())
    os._exit(127)


def _limit(order: Order) -> None:
    memory = order.memory_mb * _MIB
    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": order.output_mb * _MIB,
        # What is really its own; the address space also counts what is merely reserved.
        "RLIMIT_DATA": memory,
        "RLIMIT_AS": memory + _MAPPED,
        "RLIMIT_NOFILE": _OPEN_FILES,
    }
    if order.walls.namespaces:  # Elsewhere the user's other processes count as well.
        limits["RLIMIT_NPROC"] = order.threads
    for name, value in limits.items():
        kind = getattr(resource, name)
        highest = resource.getrlimit(kind)[1]
        bound = value if highest == _UNLIMITED else min(value, highest)
        try:
            resource.setrlimit(kind, (bound, bound))
        except (OSError, ValueError):
            if kernel.LINUX:  # macOS knows some of these by name alone; that it does not confine is said.
                raise


def _wait(child: int, signals: int, asked: AskedCalls | None) -> int | None:
    """The program's exit status; None when it was ended here, since it starts ever more processes."""
    watched = [0, signals, *([asked.listener] if asked else [])]
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        readable, _, _ = select.select(watched, [], [])
        if signals in readable:
            os.read(signals, 4096)
        if 0 in readable and not os.read(0, 1):
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1]
        if asked and asked.listener in readable and not asked.answer():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None


def _end_all(child: int) -> None:
    """End and reap what is left; in namespaces the kernel has ended it with its first process."""
    with suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended and kernel.LINUX:
            _end_children()


def _end_children() -> None:
    """Kill this process's children; theirs become its own, for the next round."""
    for process in processes():
        with suppress(OSError):  # It has ended by itself.
            if parent_of(process) == os.getpid():
                os.kill(process, signal.SIGKILL)


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(0, 65536)
        if not part:
            sys.exit("no order")
        line += part
    return line


if __name__ == "__main__":
    main()

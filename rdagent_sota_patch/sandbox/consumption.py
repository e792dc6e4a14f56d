"""What a process and all its descendants use together.

The kernel's own limits hold each process by itself; a program that starts a hundred has them a hundred times. What no
number of the kernel's shows is counted at its most, or not allowed (`seccomp`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from rdagent_sota_patch.sandbox import kernel
from rdagent_sota_patch.sandbox.seccomp import SHARED_BYTES

_MANY_FILES = 20_000
_DEEP = 30  # Before a path becomes too long to be looked at.
TOO_MUCH = 1 << 62
"""The size of what cannot be counted: over any limit."""

# In kB of a process's status: memory of its own, on the disk as well, and the tables that say where it is.
_MEMORY = (b"RssAnon", b"RssShmem", b"VmSwap", b"VmPTE", b"HugetlbPages")
_MAPPING_BYTES = 256  # what the kernel keeps of one
_PIPE_BYTES = 2 * 4096  # the least that each may hold
_DELETED = b" (deleted)"
_SHARED = b"/dev/zero"  # what memory without a file that processes share is called


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over a tree of processes.

    Attributes:
        memory: Bytes.
        threads: Processes and threads.
        hidden_files: What files take on the disk, in bytes, that are held and have no name any more.
        unmeasured: Whether there are such files of which this user cannot learn the size.
    """

    memory: int = 0
    threads: int = 0
    hidden_files: int = 0
    unmeasured: bool = False


class ProcessTree:
    """The descendants of one process, as ``/proc`` shows them; nothing is seen on other systems.

    Args:
        root: The process.
        folder: Where they can write; deleted files are looked for beneath it. None to count memory and threads alone.
    """

    def __init__(self, root: int, folder: Path | None = None) -> None:
        self._root = root
        self._folder = folder
        self._ours: set[int] = set()
        # A process that is not ours never becomes so: orphans go to our launcher, not the other way.
        self._others: set[int] = set()

    def usage(self) -> Usage:
        """What all of them use at this moment."""
        if not kernel.LINUX:
            return Usage()
        self._look()
        sums = _Sums()
        for process in self._ours:
            with suppress(FileNotFoundError, ProcessLookupError):  # It has just ended.
                sums.add(process, self._folder)
        return sums.usage()

    def _look(self) -> None:
        present = processes()
        self._others &= present
        self._ours &= present
        parents: dict[int, int] = {}
        for process in present - self._others - self._ours:
            with suppress(OSError):
                parents[process] = parent_of(process)
        found = True
        while found:
            found = False
            for process, parent in list(parents.items()):
                if parent == self._root or parent in self._ours:
                    self._ours.add(process)
                    del parents[process]
                    found = True
        self._others |= parents.keys()


@dataclass(slots=True)
class _Sums:
    """What was counted so far; each file once, however many hold it."""

    memory: int = 0
    threads: int = 0
    files: dict[tuple[int, int], int] = field(default_factory=dict)
    sockets: set[int] = field(default_factory=set)
    pipes: set[int] = field(default_factory=set)
    shared: set[int] = field(default_factory=set)
    unmeasured: set[int] = field(default_factory=set)

    def add(self, process: int, folder: Path | None) -> None:
        """Add one process.

        Raises:
            OSError: It has ended.
        """
        fields = _status(f"/proc/{process}")
        self.threads += fields[b"Threads"]
        for task in _alive(process, fields):
            fields = _status(task)
            self.memory += 1024 * sum(fields.get(name, 0) for name in _MEMORY)
            if folder is not None:
                try:
                    self._add_held(task, os.fsencode(folder) + b"/")
                except PermissionError:
                    if _lives(_status(task)):  # It forbids to look at it: what is there cannot be counted.
                        self.files[0, 0] = TOO_MUCH
            return  # Its threads share the rest.

    def usage(self) -> Usage:
        known = {inode for _, inode in self.files}
        return Usage(
            self.memory
            + SHARED_BYTES * len(self.shared)
            + _socket_bytes() * len(self.sockets)
            + _pipe_bytes(len(self.pipes)),
            self.threads,
            sum(self.files.values()),
            bool(self.unmeasured - known),
        )

    def _add_held(self, task: str, beneath: bytes) -> None:
        self._add_file(f"{task}/exe")
        for descriptor in Path(f"{task}/fd").iterdir():
            self._add_file(str(descriptor))
        for line in Path(f"{task}/maps").read_bytes().splitlines():
            self.memory += _MAPPING_BYTES
            if not line.endswith(_DELETED):
                continue
            place, _, _, _, inode, path = line.split(None, 5)
            if path.startswith(_SHARED):
                self.shared.add(int(inode))
            if path.startswith(beneath):
                first, last = (int(end, 16) for end in place.split(b"-"))
                try:
                    self._add_file(f"{task.partition('/task/')[0]}/map_files/{first:x}-{last:x}")
                except PermissionError:  # Root alone may follow these links.
                    self.unmeasured.add(int(inode))

    def _add_file(self, link: str) -> None:
        try:
            found = Path(link).stat()
        except (FileNotFoundError, ProcessLookupError):  # It was closed while this looked.
            return
        if stat.S_ISSOCK(found.st_mode):
            self.sockets.add(found.st_ino)
        elif stat.S_ISFIFO(found.st_mode):
            self.pipes.add(found.st_ino)
        elif stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
            self.files[found.st_dev, found.st_ino] = found.st_blocks * 512


def folder_size(folder: Path) -> int:
    """Bytes that the files in a folder take on the disk; `TOO_MUCH` where they cannot be counted."""
    counted: dict[tuple[int, int], int] = {}
    try:
        _count(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), counted, 0)
    except FileNotFoundError:
        return 0
    except (OSError, _TooMany):
        return TOO_MUCH
    return sum(counted.values())


def free_space(folder: Path) -> int:
    """Bytes that this user can still write to a folder's disk.

    Raises:
        OSError: It cannot be told.
    """
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def processes() -> set[int]:
    """The numbers of all processes that can be seen."""
    with os.scandir("/proc") as entries:
        return {int(entry.name) for entry in entries if entry.name.isdecimal()}


def parent_of(process: int) -> int:
    """The number of a process's parent.

    Raises:
        OSError: It has ended.
    """
    # The name, in parentheses, may hold anything.
    return int(Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[1])


class _TooMany(Exception):
    """More files than are counted, or deeper down."""


def _count(descriptor: int, counted: dict[tuple[int, int], int], depth: int) -> None:
    """Count what an open folder holds, and close it; by descriptor, so that nothing is followed out of it."""
    try:
        if depth > _DEEP:
            raise _TooMany
        with os.scandir(descriptor) as entries:
            for entry in entries:
                with suppress(
                    FileNotFoundError, NotADirectoryError
                ):  # It vanished, or became something else.
                    found = entry.stat(follow_symlinks=False)
                    counted[found.st_dev, found.st_ino] = found.st_blocks * 512
                    if len(counted) > _MANY_FILES:
                        raise _TooMany
                    if stat.S_ISDIR(found.st_mode):
                        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                        _count(os.open(entry.name, flags, dir_fd=descriptor), counted, depth + 1)
    finally:
        os.close(descriptor)


def _status(of: str) -> dict[bytes, int]:
    """The numbers in a process's or thread's status; sizes in kB."""
    fields = {}
    for line in Path(f"{of}/status").read_bytes().splitlines():
        name, _, value = line.partition(b":")
        number = value.split(None, 1)[:1]
        if number and number[0].isdigit():
            fields[name] = int(number[0])
    return fields


def _lives(fields: dict[bytes, int]) -> bool:
    return (
        b"VmRSS" in fields
    )  # A thread that has ended has given its memory up, whatever the others of its process do.


def _alive(process: int, fields: dict[bytes, int]) -> Iterator[str]:
    """The threads of a process that have not ended, as folders of ``/proc``; the first may have, before others."""
    if _lives(fields):
        yield f"/proc/{process}"
        return
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if _lives(_status(str(task))):
                yield str(task)


@cache
def _socket_bytes() -> int:
    """The most that a socket holds of what was sent and not received: the kernel grants twice the setting."""
    return 2 * _setting("/proc/sys/net/core/wmem_max", 212_992)


def _pipe_bytes(count: int) -> int:
    """The most that so many pipes hold; beyond a sum for all of a user's, each is kept to little."""
    largest, sum_of_all = _pipe_settings()
    return min(count * largest, sum_of_all + count * _PIPE_BYTES) if sum_of_all else count * largest


@cache
def _pipe_settings() -> tuple[int, int]:
    pages = _setting("/proc/sys/fs/pipe-user-pages-soft", 16_384)
    return _setting("/proc/sys/fs/pipe-max-size", 1 << 20), pages * 4096


def _setting(path: str, usual: int) -> int:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return usual

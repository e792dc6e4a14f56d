"""What a process and all its descendants use together.

The kernel's own limits hold each process by itself; a program that starts a hundred has them a hundred times.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_patch.confinement import kernel

_MANY_FILES = 20_000
_DEEP = 30  # Before a path becomes too long to be looked at.
_TOO_MUCH = 1 << 62


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over a tree of processes: memory and unnamed files in bytes, and threads."""

    memory: int = 0
    threads: int = 0
    hidden_files: int = 0


class ProcessTree:
    """The descendants of one process, as ``/proc`` shows them; nothing is seen on other systems."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._ours: set[int] = set()
        # A process that is not ours never becomes so: orphans go to our launcher, not the other way.
        self._others: set[int] = set()

    def usage(self) -> Usage:
        """What all of them use at this moment."""
        if not kernel.LINUX:
            return Usage()
        self._look()
        memory = threads = hidden = 0
        for process in self._ours:
            with suppress(OSError):  # It has just ended.
                own_memory, own_threads = _status(process)
                memory += own_memory
                threads += own_threads
                hidden += _deleted_files(process)
        return Usage(memory, threads, hidden)

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


def folder_size(folder: Path) -> int:
    """Bytes that the files in a folder take on the disk; over any limit where they cannot be counted."""
    total = count = 0
    waiting = [(str(folder), 0)]
    while waiting:
        path, depth = waiting.pop()
        try:
            entries = list(os.scandir(path))
        except FileNotFoundError:  # It vanished while this looked.
            continue
        except PermissionError:
            return _TOO_MUCH
        count += len(entries)
        if count > _MANY_FILES or depth > _DEEP:
            return _TOO_MUCH
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, depth + 1))
    return total


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


def _status(process: int) -> tuple[int, int]:
    memory = threads = 0
    for line in Path(f"/proc/{process}/status").read_bytes().splitlines():
        name, _, value = line.partition(b":")
        if name in (b"RssAnon", b"RssShmem"):
            memory += int(value.split()[0]) * 1024
        elif name == b"Threads":
            threads = int(value)
    return memory, threads


def _deleted_files(process: int) -> int:
    """What files take that are open and have no name any more."""
    total = 0
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):
            found = descriptor.stat()
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                total += found.st_blocks * 512
    return total

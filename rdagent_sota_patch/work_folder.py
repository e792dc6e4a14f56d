"""A hidden folder of a process's own, in which something is made; the next process removes it where one was killed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import hold

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORK = re.compile(r"\.rdagent-sota-[0-9a-f]{16}\.tmp")


@contextmanager
def hold_work(parent: Path) -> Iterator[Path]:
    """Give a hidden folder in ``parent`` of this process's own; what killed processes left there is removed first.

    While the block runs, no other `hold_work` takes it for one of those: the kernel's lock on it goes with the
    process. It may be renamed or removed in the block, and is left where it is after.

    Raises:
        OSError: It cannot be made.
    """
    remove_abandoned(parent)
    folder, descriptor = _make_held(parent)
    try:
        yield folder
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def make_aside(folder: Path) -> Iterator[Path]:
    """Give a hidden folder in ``folder`` that is removed after the block, also by the next call after a kill.

    Raises:
        OSError: It cannot be made.
    """
    with hold_work(folder) as work:
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def is_work(name: str) -> bool:
    """Whether a folder's name is one that `hold_work` gives."""
    return _WORK.fullmatch(name) is not None


def remove_abandoned(parent: Path) -> None:
    """Remove the folders of `hold_work` whose process is gone; those of other users stay, and what is not a folder."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        for folder in sorted(path for path in parent.iterdir() if is_work(path.name)):
            with suppress(OSError):
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    if os.fstat(descriptor).st_uid == os.getuid():
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        remove_tree(folder)
                finally:
                    os.close(descriptor)


def _make_held(parent: Path) -> tuple[Path, int | None]:
    """A new folder with the lock on it, as long as the descriptor is open; None where the system has no such lock."""
    while True:
        folder = parent / f".rdagent-sota-{secrets.token_hex(8)}.tmp"
        folder.mkdir()
        if sys.platform == "win32":
            return folder, None
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Taken for an abandoned one between the two calls.
            continue
        if hold(folder, descriptor):
            return folder, descriptor
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as that goes."""
    # Clean-up must not hide the failure that led here; what is left begins with a dot and ends in .tmp or .old.
    with suppress(OSError, RecursionError):
        shutil.rmtree(folder)

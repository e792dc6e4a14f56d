"""The hidden folder beside a sync's target in which files wait until all are there, also after a kill."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.folder import NEW_NAME, OLD_NAME
from rdagent_sota_patch.errors import ApiError, SotaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LOCK = "lock"
_OURS = re.compile(r"[0-9a-f]{64}(\.part)?|lock")
_ATTEMPTS = 3


@contextmanager
def hold_staging(target: Path) -> Iterator[Path]:
    """Give the folder ``.<name>.sync`` beside ``target``, for one process at a time.

    It is removed with what is in it when the block ends well, and stays as it is when the block fails. What cannot be
    removed then is left to the next sync: the target is what it should be.

    Raises:
        ApiError: ``sync-in-use``; ``target-not-a-bundle`` where something other than a sync's files is there.
        SotaError: ``cannot-write``.
    """
    with _held(target) as folder:
        yield folder
        _remove(folder)


def recover(target: Path) -> None:
    """Undo what a sync that was killed while it replaced the target has left half done.

    Raises:
        ApiError: As for `hold_staging`.
        SotaError: ``cannot-write``.
    """
    if os.path.lexists(staging_of(target)):
        with _held(target):
            pass


def staging_of(target: Path) -> Path:
    """Where files for ``target`` wait."""
    return target.parent / f".{target.name}.sync"


@contextmanager
def _held(target: Path) -> Iterator[Path]:
    folder = staging_of(target)
    try:
        descriptor = _lock(folder)
        try:
            old, new = folder / OLD_NAME, folder / NEW_NAME
            if old.is_dir() and not os.path.lexists(target):
                old.rename(target)
            for path in (old, new):
                if path.is_dir():
                    shutil.rmtree(path)
            yield folder
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot write {error.filename or folder}: {error.strerror or error}.",
            "Check that the folder exists, is writable and has room. What was transferred is kept: sync again.",
        ) from error


def _lock(folder: Path) -> int:
    """The descriptor of the lock that is held, of a folder that is there."""
    for _ in range(_ATTEMPTS):
        folder.mkdir(mode=0o700, exist_ok=True)
        _require_ours(folder)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            break
        # Another process may have removed it between the two calls.
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
    raise ApiError(
        "sync-in-use",
        f"Another process is syncing to the same place: it holds {folder / _LOCK}.",
        "Wait for it, or end it; then sync again.",
    )


def _require_ours(folder: Path) -> None:
    status = folder.lstat()
    foreign = [] if not stat.S_ISDIR(status.st_mode) else sorted(_foreign(folder))
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or foreign:
        what = f", such as {foreign[0]!r}" if foreign else ""
        raise ApiError(
            "target-not-a-bundle",
            f"{folder} is where files wait until they are complete, and what is there is no sync's{what}.",
            "Choose another folder, or move this one away.",
        )


def _foreign(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            ours = (
                entry.is_dir(follow_symlinks=False)
                if entry.name in {NEW_NAME, OLD_NAME}
                else _OURS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            )
            if not ours:
                yield entry.name


def _remove(folder: Path) -> None:
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            # The lock last: until then nobody else begins here.
            if path.name != _LOCK and _OURS.fullmatch(path.name):
                path.unlink()
        (folder / _LOCK).unlink()
        folder.rmdir()

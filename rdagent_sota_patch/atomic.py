"""Atomic file writing: a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import sys
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

# What network and FUSE file systems answer when a folder cannot be synced; the file itself is safe by then.
_FOLDER_SYNC_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES})


@contextmanager
def replace_atomically(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a path to write to, which becomes ``target`` when the block ends well.

    The temporary file lies beside the target and is gone when the block fails; if the process is killed, the next
    call for the same target removes it. A target that existed keeps its content until then. A target that is a link
    is replaced, not followed. Open what is read before entering: an ``OSError`` inside counts as a failure to write.

    Args:
        target: The file to write; its folder must exist.
        durable: Whether to wait until the disk has it. Off, a power cut may lose the new file.

    Raises:
        SotaError: ``cannot-write``; ``not-confirmed`` where the new file is in place.
    """
    try:
        temporary, descriptor = _create_beside(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield temporary
        if durable:
            sync_file(temporary)
        temporary.replace(target)
    except OSError as error:
        _remove(temporary)
        raise _cannot_write(target, error) from error
    except BaseException:
        _remove(temporary)
        raise
    finally:
        # The lock goes with it.
        os.close(descriptor)
    if durable:
        confirm(target)


def confirm(target: Path) -> None:
    """Wait until the disk has the name of a file or folder that was put in place.

    Raises:
        SotaError: ``not-confirmed``: it is in place, and the disk does not say that it will be after a power cut.
    """
    try:
        sync_folder(target.parent)
    except OSError as error:
        raise SotaError(
            "not-confirmed",
            f"{target} is written and in its place, but the disk does not confirm that it will be there after a power "
            f"cut: {error.strerror or error}.",
            "Use it. Check the disk, and keep a copy on another one.",
        ) from error


def write_text_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Write ``text`` as UTF-8 with its line endings as they are; see `replace_atomically`.

    Raises:
        SotaError: ``cannot-write``.
    """
    with replace_atomically(path, durable=durable) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def _create_beside(target: Path) -> tuple[Path, int]:
    """A new file, and the descriptor by which it is held."""
    # Hashed, since the target's name may already be as long as the file system allows.
    name = blake2b(os.fsencode(target.name), digest_size=8).hexdigest()
    numbered = (target.parent / f".{name}-{number}.tmp" for number in itertools.count())
    for temporary in numbered:
        _remove_abandoned(temporary)
        with suppress(FileExistsError):
            # The mode that plain open() would give, where tempfile would make the file private.
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            if hold(temporary, descriptor):
                break
            os.close(descriptor)
    try:
        if target.is_dir() and not target.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        if target.is_file() and not target.is_symlink():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
    except BaseException:
        _remove(temporary)
        os.close(descriptor)
        raise
    # Of processes that wrote the same file at the same time, and were killed.
    for further in itertools.takewhile(os.path.lexists, numbered):
        _remove_abandoned(further)
    return temporary, descriptor


def hold(path: Path, descriptor: int) -> bool:
    """Lock what was just made: its process is alive. False where another process has removed it already."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # Some network disks have no locks; there, what others left is not removed.
        return error.errno not in {errno.EWOULDBLOCK, errno.EACCES}
    return _is_at(path, descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(OSError):
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    return False


def _remove_abandoned(temporary: Path) -> None:
    """Remove a file of this user's that no process holds; what is somebody else's stays, and what is not a file."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(temporary, descriptor):
                    temporary.unlink()
        finally:
            os.close(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk."""
    # Windows syncs only a file that is open for writing.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk, where the system can.

    Raises:
        OSError: The disk reports a fault.
    """
    if not hasattr(os, "O_DIRECTORY"):  # Windows has no way to sync a folder.
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # A folder may be writable and not readable.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_SYNC_UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    # Clean-up must not hide the failure that led here.
    with suppress(OSError):
        temporary.unlink()


def _cannot_write(target: Path, error: OSError) -> SotaError:
    return SotaError(
        "cannot-write",
        f"Cannot write {target}: {error.strerror or error}.",
        "Check that its folder exists, is writable and has room, or choose another place.",
    )

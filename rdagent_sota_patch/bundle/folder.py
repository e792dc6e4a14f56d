"""A bundle's folder: there as a whole or not at all, and an old bundle removed only for a new one."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rdagent_sota_patch.atomic import confirm, sync_file, sync_folder
from rdagent_sota_patch.bundle.contents import is_inside, walk
from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME, SIGNATURE_NAME, Manifest
from rdagent_sota_patch.errors import BundleError, SotaError
from rdagent_sota_patch.work_folder import hold_work, remove_tree

if sys.platform != "win32":
    pass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

NEW_NAME = "new.tmp"
OLD_NAME = "old.tmp"

_LARGEST_MANIFEST = 16 << 20
# linux/fcntl.h and linux/fs.h.
_HERE = -100
_RENAME_EXCHANGE = 2
_CANNOT_SWAP = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM})


@contextmanager
def make_folder(
    target: Path, *, force: bool = False, known: Collection[str] = (), workshop: Path | None = None
) -> Iterator[Path]:
    """Give a folder to fill, which becomes ``target`` when the block ends well.

    It lies beside the target and is gone when the block fails; if the process is killed, the next call there removes
    it. What is written into it is waited for until the disk has it. An old bundle is put aside, and removed once the
    new one is in its place.

    Args:
        target: The bundle's folder; the folder it is in must exist.
        force: Whether an old bundle (or an empty folder) at ``target`` is replaced.
        known: See `require_free`.
        workshop: A folder on the same disk, of the caller's own, for what is not yet or no longer in place, under the
            names `NEW_NAME` and `OLD_NAME`: what a killed process left can be removed. Beside the target if not given.

    Raises:
        BundleError: ``target-exists``; with ``force``, ``target-not-a-bundle`` where something other than a
            bundle would be lost.
        SotaError: ``cannot-write``, also when the disk is full; ``not-confirmed`` where the bundle is in its place.
    """
    require_free(target, force=force, known=known)
    try:
        with _temporary(target.parent, workshop) as (temporary, old):
            try:
                yield temporary
                _sync_tree(temporary)
                # Minutes may have passed.
                require_free(target, force=force, known=known)
                replaced = _put_in_place(temporary, target, old)
            except BaseException:
                remove_tree(temporary)
                raise
            if replaced is not None:
                remove_tree(replaced)
    except OSError as error:
        raise cannot_write(target, error) from error
    confirm(target)


@contextmanager
def _temporary(parent: Path, workshop: Path | None) -> Iterator[tuple[Path, Path]]:
    """Where the new bundle is made, and where an old one is put aside."""
    if workshop is None:
        with hold_work(parent) as folder:
            yield folder, folder.with_suffix(".old")
    else:
        (workshop / NEW_NAME).mkdir()
        yield workshop / NEW_NAME, workshop / OLD_NAME


def require_free(target: Path, *, force: bool, known: Collection[str] = ()) -> None:
    """Make sure that a bundle may be written to ``target``; called before any work is done for it.

    Args:
        target: The bundle's folder.
        force: Whether an old bundle may be replaced.
        known: Relative POSIX paths of files that may be lost, whatever the manifest there says or became.

    Raises:
        BundleError: ``target-exists`` or ``target-not-a-bundle``.
    """
    if not os.path.lexists(target):
        return
    if not force:
        raise BundleError(
            "target-exists", f"{target} exists.", "Choose another folder, or replace the bundle with --force."
        )
    reason = _find_loss(target, known)
    if reason:
        raise BundleError(
            "target-not-a-bundle",
            f"{target} is not replaced: {reason}.",
            "Choose another folder, or move this one away.",
        )


def cannot_write(target: Path, error: OSError) -> SotaError:
    """The error of a bundle that could not be written: nothing of it is left."""
    return SotaError(
        "cannot-write",
        f"Cannot write the bundle {target}: {error.strerror or error}. Nothing of it is left behind.",
        "Check that its folder exists, is writable and has room, or choose another place.",
    )


def _find_loss(target: Path, known: Collection[str]) -> str:
    """What would be lost that no export or sync has written; empty when nothing would."""
    if target.is_symlink() or not target.is_dir():
        return "it is not a folder"
    # Before all are listed: this may be somebody's home.
    if next(walk(target, ()), None) is None:
        return ""
    listed, wrong = _read_list(target / MANIFEST_NAME)
    if wrong and not known:
        return wrong
    ours = {*filter(is_inside, {*listed, *known}), MANIFEST_NAME, SIGNATURE_NAME, COMPANION_NAME}
    more = sorted(name for name, _ in walk(target, ours) if name not in ours)
    return f"it holds {len(more)} files that are not the bundle's, such as {more[0]}" if more else ""


def _read_list(manifest: Path) -> tuple[Collection[str], str]:
    """What a manifest lists, or why it is none."""
    if not manifest.is_file() or manifest.is_symlink() or manifest.stat().st_size > _LARGEST_MANIFEST:
        return (), f"it holds files and no {MANIFEST_NAME}"
    try:
        return Manifest.model_validate_json(manifest.read_bytes()).files, ""
    except ValidationError:
        return (), f"its {MANIFEST_NAME} is not that of a bundle"


def _put_in_place(temporary: Path, target: Path, old: Path) -> Path | None:
    """Where the old bundle is now; None without one. Raises only when the new one is not in its place."""
    if not os.path.lexists(target):
        temporary.rename(target)
        return None
    if _exchange(temporary, target):
        return temporary
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException as error:
        try:
            old.rename(target)
        except OSError:
            raise SotaError(
                "cannot-write",
                f"Cannot write the bundle {target}: {error}. The bundle that was there is now {old}.",
                f"Check the disk, and rename it back: mv {old} {target}",
            ) from error
        raise
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders at once, so that no reader finds none; False where the system or the disk cannot."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if swap is None:
        return False
    if swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _CANNOT_SWAP:
        return False
    raise OSError(error, os.strerror(error), str(other))


def _sync_tree(folder: Path) -> None:
    for path, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(path, name))
        sync_folder(Path(path))

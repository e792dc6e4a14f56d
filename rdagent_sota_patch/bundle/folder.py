"""A bundle's folder: there as a whole or not at all, and an old bundle removed only for a new one."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rdagent_sota_patch.atomic import sync_file, sync_folder
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from rdagent_sota_patch.errors import BundleError, SotaError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_MANIFEST = 16 << 20


@contextmanager
def make_folder(target: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a folder to fill, which becomes ``target`` when the block ends well.

    It stands beside the target and is gone when the block fails. What is written into it is waited for until
    the disk has it. An old bundle is put aside, and removed once the new one is in its place.

    Args:
        target: The bundle's folder; the folder it is in must exist.
        force: Whether an old bundle (or an empty folder) at ``target`` is replaced.

    Raises:
        BundleError: ``target-exists``; with ``force``, ``target-not-a-bundle`` where something other than a
            bundle would be lost.
        SotaError: ``cannot-write``, also when the disk is full.
    """
    require_free(target, force=force)
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        yield temporary
        _sync_tree(temporary)
        # Minutes may have passed.
        require_free(target, force=force)
        _put_in_place(temporary, target)
    except OSError as error:
        _remove_tree(temporary)
        raise cannot_write(target, error) from error
    except BaseException:
        _remove_tree(temporary)
        raise


def require_free(target: Path, *, force: bool) -> None:
    """Make sure that a bundle may be written to ``target``; called before any work is done for it.

    Raises:
        BundleError: ``target-exists`` or ``target-not-a-bundle``.
    """
    if not os.path.lexists(target):
        return
    if not force:
        raise BundleError(
            "target-exists", f"{target} exists.", "Choose another folder, or replace the bundle with --force."
        )
    reason = _find_loss(target)
    if reason:
        raise BundleError(
            "target-not-a-bundle",
            f"{target} is not replaced, --force or not: {reason}.",
            "Choose another folder, or move this one away.",
        )


def cannot_write(target: Path, error: OSError) -> SotaError:
    """The error of a bundle that could not be written: nothing of it is left."""
    return SotaError(
        "cannot-write",
        f"Cannot write the bundle {target}: {error.strerror or error}. Nothing of it is left behind.",
        "Check that its folder exists, is writable and has room, or choose another place.",
    )


def _find_loss(target: Path) -> str:
    """What would be lost that no export has written; empty when nothing would."""
    if target.is_symlink() or not target.is_dir():
        return "it is not a folder"
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    if not found:
        return ""
    manifest = target / MANIFEST_NAME
    if not manifest.is_file() or manifest.is_symlink() or manifest.stat().st_size > _LARGEST_MANIFEST:
        return f"it holds files and no {MANIFEST_NAME}"
    try:
        listed = Manifest.model_validate_json(manifest.read_bytes()).files
    except ValidationError:
        return f"its {MANIFEST_NAME} is not that of a bundle"
    more = sorted(found - set(listed) - {MANIFEST_NAME, SIGNATURE_NAME})
    return f"it holds {len(more)} files that are not the bundle's, such as {more[0]}" if more else ""


def _put_in_place(temporary: Path, target: Path) -> None:
    if not os.path.lexists(target):
        temporary.rename(target)
        sync_folder(target.parent)
        return
    old = target.parent / f".{secrets.token_hex(8)}.old"
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    sync_folder(target.parent)
    _remove_tree(old)


def _sync_tree(folder: Path) -> None:
    for path, _, files in os.walk(folder):
        for name in files:
            sync_file(Path(path, name))
        sync_folder(Path(path))


def _remove_tree(folder: Path) -> None:
    # Clean-up must not hide the failure that led here; what is left begins with a dot and ends in .tmp or .old.
    with suppress(OSError):
        shutil.rmtree(folder)

"""What lies in a bundle's folder, checked against its manifest: files, sizes and hashes.

No link is followed and nothing but plain files is opened, so that a stranger's bundle cannot lead out of its folder.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME, REPLAY_FOLDER, SIGNATURE_NAME
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.hashing import hash_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import ShippedFile

GET_ANEW = "Fetch the bundle again, or export it again; do not use this one."

# Of a listed name: far above what any bundle has.
_LONGEST_PATH = 1024
_DEEPEST = 16
# A link in place of a file must not be followed, and a FIFO must not block; neither flag exists on Windows.
_OPEN_FLAGS = (
    os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)
_SHOWN_NAMES = 50
_SHOWN_CHARACTERS = 300


def check_files(folder: Path, files: Mapping[str, ShippedFile], *, replay: bool) -> list[Problem]:
    """Everything in which a folder differs from a manifest's list: missing, changed, additional, no plain file.

    Args:
        folder: The bundle.
        files: What the manifest lists, by relative POSIX path.
        replay: Whether ``replay/`` is looked at, too.
    """
    unsafe = sorted(name for name in files if not is_inside(name))
    if unsafe:
        text = (
            f"the manifest lists {_quote(unsafe)}, which lead out of the bundle, or deeper than its files lie"
        )
        return [_altered(folder, text)]
    expected = {name: entry for name, entry in files.items() if replay or not _is_evidence(name)}
    problems, found = [], set()
    skipped = frozenset() if replay else frozenset({REPLAY_FOLDER})
    for name, entry in walk(folder, expected, skipped):
        found.add(name)
        if isinstance(entry, OSError):
            problems.append(_altered(folder, f"cannot look into {name!r}: {entry.strerror or entry}"))
        elif name in expected:
            plain = entry.is_file(follow_symlinks=False)
            wrong = _compare(folder, name, expected[name]) if plain else f"{name!r} is not a plain file"
            problems.extend([_altered(folder, wrong)] if wrong else [])
    missing = sorted(expected.keys() - found)
    extra = sorted(found - expected.keys() - {MANIFEST_NAME, SIGNATURE_NAME, COMPANION_NAME})
    if missing:
        problems.append(_altered(folder, f"missing: {_quote(missing)}"))
    if extra:
        problems.append(_altered(folder, f"not in the manifest: {_quote(extra)}"))
    return problems


def read_listed(folder: Path, name: str, files: Mapping[str, ShippedFile]) -> bytes:
    """The bytes of one listed file, checked against its size and hash.

    Raises:
        BundleError: ``bundle-altered``.
    """
    entry = files.get(name)
    if entry is None or not is_inside(name):
        raise BundleError.of([_altered(folder, f"the manifest does not list {name!r}")])
    try:
        with _open_plain(folder / name) as file:
            content = file.read(entry.size + 1)
    except OSError as error:
        raise BundleError.of(
            [_altered(folder, f"cannot read {name!r}: {error.strerror or error}")]
        ) from error
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError.of([_altered(folder, f"{name!r} is not the file that was exported")])
    return content


def read_bounded(path: Path, limit: int) -> bytes:
    """At most ``limit`` bytes of a plain file, and one more if it is larger.

    Raises:
        OSError: It cannot be read, or is not a plain file.
    """
    with _open_plain(path) as file:
        return file.read(limit + 1)


def is_inside(name: str) -> bool:
    """Whether a listed name is a relative POSIX path that stays in the bundle, spelled in the one way there is.

    And no longer or deeper than the name of a bundle's file may be.
    """
    if len(name) > _LONGEST_PATH:
        return False
    parts = PurePosixPath(name).parts
    return (
        0 < len(parts) <= _DEEPEST
        and "/".join(parts) == name
        and not {"..", "/"} & set(parts)
        # On Windows these would be separators, drives and streams.
        and not set("\\:\0") & set(name)
    )


def is_as_listed(folder: Path, name: str, expected: ShippedFile) -> bool:
    """Whether a folder holds, under a name that `is_inside`, a plain file of this size and SHA-256."""
    return _compare(folder, name, expected) is None


def walk(
    folder: Path, listed: Collection[str], skipped: Collection[str] = ()
) -> Iterator[tuple[str, os.DirEntry[str] | OSError]]:
    """What lies in a folder, by its relative POSIX path; links are not followed.

    A folder that no listed file is in is given itself, with ``/`` at its end, unless it is empty: nothing goes down
    into what somebody nested a thousand deep. One that cannot be looked into is given with the reason.

    Args:
        folder: The bundle.
        listed: Names that `is_inside`.
        skipped: Names at the top that are neither given nor looked into.
    """
    parents = {str(parent) for name in listed for parent in PurePosixPath(name).parents}
    below = [""]
    while below:
        prefix = below.pop()
        try:
            with os.scandir(folder / prefix) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            yield prefix or ".", error
            continue
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if name in skipped:
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield name, entry
            elif name in parents:
                below.append(f"{name}/")
            elif not _is_empty(folder / name):
                yield f"{name}/", entry


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _is_evidence(name: str) -> bool:
    return name.startswith(f"{REPLAY_FOLDER}/")


def _compare(folder: Path, name: str, expected: ShippedFile) -> str | None:
    try:
        with _open_plain(folder / name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.size:
                return f"{name!r} has {size} bytes in place of {expected.size}"
            _, sha256 = hash_file(file)
    except OSError as error:
        return f"cannot read {name!r}: {error.strerror or error}"
    return None if sha256 == expected.sha256 else f"{name!r} was changed: its SHA-256 is another"


def _open_plain(path: Path) -> IO[bytes]:
    descriptor = os.open(path, _OPEN_FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a plain file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _quote(names: list[str]) -> str:
    shown = ", ".join(repr(name[:_SHOWN_CHARACTERS]) for name in names[:_SHOWN_NAMES])
    return shown if len(names) <= _SHOWN_NAMES else f"{shown} and {len(names) - _SHOWN_NAMES} more"


def _altered(folder: Path, text: str) -> Problem:
    return Problem("bundle-altered", f"{folder}: {text}.", GET_ANEW)

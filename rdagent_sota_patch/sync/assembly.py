"""Files that wait in a hidden folder until they are whole, put together, checked, and put in place."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME, SIGNATURE_NAME
from rdagent_sota_patch.bundle.folder import NEW_NAME, OLD_NAME, make_folder
from rdagent_sota_patch.bundle.manifest import write_manifest
from rdagent_sota_patch.bundle.notes_layout import ENTRY_NAME, NotesContent, lay_out_notes
from rdagent_sota_patch.bundle.opening import Bundle, open_bundle
from rdagent_sota_patch.bundle.writing import BundleWriter, to_json
from rdagent_sota_patch.errors import ApiError, BundleError, Problem, SotaError
from rdagent_sota_patch.sync.companion import SyncManifest, describe_sync, has_evidence
from rdagent_sota_patch.sync.local import REPLACED, served_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import FactorOrder, Manifest
    from rdagent_sota_patch.bundle.notes_layout import Layout
    from rdagent_sota_patch.results.schemas import AssetItem, SotaFactorAnchor, TaskManifest
    from rdagent_sota_patch.sync.local import LocalSync

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
            # The lock last: until then no other sync begins here.
            if path.name != _LOCK and _OURS.fullmatch(path.name):
                path.unlink()
        (folder / _LOCK).unlink()
        folder.rmdir()


_MARGIN = 64 << 20


@dataclass(frozen=True, slots=True)
class Whole:
    """A bundle that was put together and checked.

    Attributes:
        order: The model's inputs.
        companion: What lies beside it for its readers; None of the model stage.
    """

    manifest: Manifest
    order: FactorOrder
    companion: SyncManifest | None


@dataclass(frozen=True, slots=True)
class Assembly:
    """What is to be put together.

    Attributes:
        anchor: Of the run's factor stage; None for the model stage.
        task: Of the run: size and hash of each factor's code.
        manifest: Of its bundle.
        content: The manifest's bytes.
        right: Files that the target has already.
    """

    target: Path
    layout: Layout
    local: LocalSync
    anchor: SotaFactorAnchor | None
    task: TaskManifest
    manifest: Manifest
    content: bytes
    right: frozenset[str]

    def describe(self, folder: Path) -> Whole:
        """What the bundle in ``folder`` is, whose files and documents are checked first.

        Raises:
            ApiError: ``unusable-answer``.
        """
        bundle = self._open(folder)
        order, _ = bundle.model
        if self.anchor is None:
            return Whole(bundle.manifest, order, None)
        codes = _Codes(bundle)
        wrong = sorted(self._missing_code(self.anchor, codes))
        if wrong:
            raise _unusable(f"the anchor's code {', '.join(wrong)} is not among its factors")
        entry = ENTRY_NAME if ENTRY_NAME in bundle.manifest.files else self._entry(self.anchor, codes)
        content = (folder / MANIFEST_NAME).read_bytes()
        companion = describe_sync(self.anchor, bundle.manifest, content, order, entry)
        return Whole(bundle.manifest, order, companion)

    def lay_out(self, folder: Path, anchor: SotaFactorAnchor) -> None:
        """Add what the notes' readers look for to the bundle in ``folder``, which is checked first.

        Raises:
            ApiError: ``unusable-answer``.
        """
        bundle = self._open(folder)
        order, meta = bundle.model
        index, factors = anchor.last_sota_factor_index, bundle.factors.factors
        assert index is not None
        manifest = bundle.manifest
        writer = BundleWriter(folder, manifest.files)
        for name in REPLACED:
            writer.copy(served_name(name), folder / name)
        written_at, entry = order.generated_at_utc, self._entry(anchor, _Codes(bundle))
        try:
            lay_out_notes(
                writer,
                NotesContent(manifest.task_id, manifest.loop, index, entry, written_at, factors, order, meta),
            )
        except BundleError as error:
            raise self._unusable_bundle(folder, error) from error
        has_entry = ENTRY_NAME in writer.files
        changes = {"factor_entry_relpath": ENTRY_NAME} if has_entry else {}
        assets = manifest.primary_assets.model_copy(update=changes)
        (folder / MANIFEST_NAME).unlink()
        write_manifest(
            folder, manifest.model_copy(update={"primary_assets": assets, "files": dict(writer.files)})
        )

    def _entry(self, anchor: SotaFactorAnchor, codes: _Codes) -> str | None:
        entry = self._asset(anchor.resolved_factor_entry_key)
        return None if entry is None else codes.find(entry)

    def _open(self, folder: Path) -> Bundle:
        try:
            return open_bundle(folder, replay=has_evidence(self.manifest))
        except BundleError as error:
            raise self._unusable_bundle(folder, error) from error

    def _unusable_bundle(self, folder: Path, error: BundleError) -> ApiError:
        told = [problem.message.removeprefix(f"{folder}: ") for problem in error.problems]
        return _unusable("; ".join(text.rstrip(".") for text in told))

    def _missing_code(self, anchor: SotaFactorAnchor, codes: _Codes) -> Iterator[str]:
        own = anchor.factor_file_dict_keys or ()
        based = anchor.based_factor_entries or ()
        keys = {
            anchor.resolved_factor_entry_key,
            *own,
            *(key for entry in based for key in entry.resolved_factor_entry_keys),
        } - {None, anchor.resolved_model_weight_key}
        for key in keys:
            asset = self._asset(key)
            if asset is None or (codes.find(asset) is None and asset.name not in codes.without):
                yield repr(key)

    def _asset(self, key: str | None) -> AssetItem | None:
        return next(
            (each for each in self.task.assets if each.key == key and each.role == "factor_code"), None
        )


class _Codes:
    """The code of a bundle's factors, by its hash."""

    def __init__(self, bundle: Bundle) -> None:
        self._found: dict[str, dict[str, str]] = {}
        self.without = {factor.name for factor in bundle.factors.factors if factor.code_relpath is None}
        """Factors that the bundle lists without code, with the reason why."""
        for factor in bundle.factors.factors:
            if factor.code_relpath is not None:
                sha256 = bundle.manifest.files[factor.code_relpath].sha256
                self._found.setdefault(sha256, {})[factor.name] = factor.code_relpath

    def find(self, asset: AssetItem) -> str | None:
        """Where the bundle has this code; of several places the one of the factor's own name, or else the last."""
        places = self._found.get(asset.sha256, {})
        return places.get(asset.name or "") or next(reversed(places.values()), None)


def assemble(assembly: Assembly, staging: Path) -> Whole:
    """Put all files into a new folder and that in the target's place; what it has there.

    Args:
        assembly: What.
        staging: Where the files that the target lacks are, named by their SHA-256.

    Raises:
        ApiError: ``unusable-answer``.
        BundleError: ``target-not-a-bundle``.
        SotaError: ``cannot-write``.
    """
    target, local = assembly.target, assembly.local
    with make_folder(target, force=True, known=local.known, workshop=staging) as folder:
        taken: set[Path] = set()
        for name, file in assembly.manifest.files.items():
            source = target / local.place(name) if name in assembly.right else staging / file.sha256
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _place(source, folder / name, link=source not in taken)
            taken.add(source)
        if local.manifest == assembly.content:
            _place(target / local.place(MANIFEST_NAME), folder / MANIFEST_NAME, link=True)
        else:
            (folder / MANIFEST_NAME).write_bytes(assembly.content)
        if assembly.layout == "notes" and assembly.anchor is not None:
            assembly.lay_out(folder, assembly.anchor)
        if (target / SIGNATURE_NAME).is_file() and _same(target / MANIFEST_NAME, folder / MANIFEST_NAME):
            # The user's own, and still good.
            _place(target / SIGNATURE_NAME, folder / SIGNATURE_NAME, link=True)
        whole = assembly.describe(folder)
        if whole.companion is not None:
            (folder / COMPANION_NAME).write_bytes(to_json(whole.companion))
    return whole


def require_room(folder: Path, size: int) -> None:
    """Make sure, before anything is transferred, that a disk has room for it.

    Raises:
        OSError: It has not.
    """
    if shutil.disk_usage(folder).free < size + _MARGIN:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {size:,} bytes", str(folder))


def _same(one: Path, other: Path) -> bool:
    return (
        one.is_file()
        and one.stat().st_size == other.stat().st_size
        and one.read_bytes() == other.read_bytes()
    )


def _place(source: Path, target: Path, *, link: bool) -> None:
    """The same file under another name, or where two files may not be one, or cannot, a copy."""
    # One that may not be written to cannot be synced to the disk either.
    if link and os.access(source, os.W_OK):
        try:
            os.link(source, target, follow_symlinks=False)
            return
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}:
                raise
    shutil.copyfile(source, target, follow_symlinks=False)


def _unusable(text: str) -> ApiError:
    return ApiError.of(
        [
            Problem(
                "unusable-answer",
                f"The bundle that the server sent cannot be used: {text}.",
                "Nothing was put in place. Export the run on the server to see what is wrong with it.",
            )
        ]
    )

"""The files of a sync put together beside the target, held to each other once more, and put in its place."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME, SIGNATURE_NAME
from rdagent_sota_patch.bundle.folder import make_folder
from rdagent_sota_patch.bundle.manifest import write_manifest
from rdagent_sota_patch.bundle.notes_layout import ENTRY_NAME, NotesContent, lay_out_notes
from rdagent_sota_patch.bundle.opening import Bundle, open_bundle
from rdagent_sota_patch.bundle.writing import BundleWriter, to_json
from rdagent_sota_patch.errors import ApiError, BundleError, Problem
from rdagent_sota_patch.sync.companion import SyncManifest, describe_sync, has_evidence
from rdagent_sota_patch.sync.local import REPLACED, served_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import Manifest
    from rdagent_sota_patch.bundle.notes_layout import Layout
    from rdagent_sota_patch.results.schemas import AssetItem, SotaFactorAnchor, TaskManifest
    from rdagent_sota_patch.sync.local import LocalSync

_MARGIN = 64 << 20


@dataclass(frozen=True, slots=True)
class Assembly:
    """What is to be put together.

    Attributes:
        anchor: Of the run.
        task: Of the run: size and hash of each factor's code.
        manifest: Of its bundle.
        content: The manifest's bytes.
        right: Files that the target has already.
    """

    target: Path
    layout: Layout
    local: LocalSync
    anchor: SotaFactorAnchor
    task: TaskManifest
    manifest: Manifest
    content: bytes
    right: frozenset[str]

    def describe(self, folder: Path) -> tuple[Manifest, SyncManifest]:
        """The manifest of the bundle in ``folder``, whose files and documents are checked first, and its companion.

        Raises:
            ApiError: ``unusable-answer``.
        """
        bundle = self._open(folder)
        codes = _Codes(bundle)
        wrong = sorted(self._missing_code(codes))
        if wrong:
            raise _unusable(f"the anchor's code {', '.join(wrong)} is not among its factors")
        order, _ = bundle.model
        entry = ENTRY_NAME if ENTRY_NAME in bundle.manifest.files else self._entry(codes)
        content = (folder / MANIFEST_NAME).read_bytes()
        return bundle.manifest, describe_sync(self.anchor, bundle.manifest, content, order, entry)

    def lay_out(self, folder: Path) -> None:
        """Add what the notes' readers look for to the bundle in ``folder``, which is checked first.

        Raises:
            ApiError: ``unusable-answer``.
        """
        bundle = self._open(folder)
        order, meta = bundle.model
        index, factors = self.anchor.last_sota_factor_index, bundle.factors.factors
        assert index is not None
        manifest = bundle.manifest
        writer = BundleWriter(folder, manifest.files)
        for name in REPLACED:
            writer.copy(served_name(name), folder / name)
        written_at, entry = order.generated_at_utc, self._entry(_Codes(bundle))
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

    def _entry(self, codes: _Codes) -> str | None:
        entry = self._asset(self.anchor.resolved_factor_entry_key)
        return None if entry is None else codes.find(entry)

    def _open(self, folder: Path) -> Bundle:
        try:
            return open_bundle(folder, replay=has_evidence(self.manifest))
        except BundleError as error:
            raise self._unusable_bundle(folder, error) from error

    def _unusable_bundle(self, folder: Path, error: BundleError) -> ApiError:
        told = [problem.message.removeprefix(f"{folder}: ") for problem in error.problems]
        return _unusable("; ".join(text.rstrip(".") for text in told))

    def _missing_code(self, codes: _Codes) -> Iterator[str]:
        own = self.anchor.factor_file_dict_keys or ()
        based = self.anchor.based_factor_entries or ()
        keys = {
            self.anchor.resolved_factor_entry_key,
            *own,
            *(key for entry in based for key in entry.resolved_factor_entry_keys),
        } - {None, self.anchor.resolved_model_weight_key}
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


def assemble(assembly: Assembly, staging: Path) -> tuple[Manifest, SyncManifest]:
    """Put all files into a new folder and that in the target's place; the manifest and the companion that it has.

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
        if assembly.layout == "notes":
            assembly.lay_out(folder)
        if (target / SIGNATURE_NAME).is_file() and _same(target / MANIFEST_NAME, folder / MANIFEST_NAME):
            # The user's own, and still good.
            _place(target / SIGNATURE_NAME, folder / SIGNATURE_NAME, link=True)
        manifest, companion = assembly.describe(folder)
        (folder / COMPANION_NAME).write_bytes(to_json(companion))
    return manifest, companion


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

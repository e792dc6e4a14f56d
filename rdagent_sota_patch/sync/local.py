"""What is at a sync's target already: an earlier sync, whose right files need not be transferred again."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.contents import is_as_listed, read_bounded
from rdagent_sota_patch.bundle.documents import (
    COMPANION_NAME,
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    SERVED_FOLDER,
)
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sync.client import LARGEST_DOCUMENT
from rdagent_sota_patch.sync.companion import SyncManifest, read_companion

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import ShippedFile
    from rdagent_sota_patch.bundle.notes_layout import Layout

REPLACED = (MANIFEST_NAME, FACTORS_NAME, META_NAME)
"""Documents that are others in the notes' layout than those that the server sent."""


@dataclass(frozen=True, slots=True)
class LocalSync:
    """What is at the target.

    Attributes:
        layout: How the folder is laid out.
        manifest: Bytes of the server's ``manifest.json`` there; None where there is none that can be read.
        companion: The ``aistock_manifest.json`` there; None where there is none that can be read.
    """

    target: Path
    layout: Layout
    manifest: bytes | None
    companion: SyncManifest | None

    @property
    def manifest_sha256(self) -> str | None:
        """Of the manifest's bytes."""
        return None if self.manifest is None else hashlib.sha256(self.manifest).hexdigest()

    @property
    def known(self) -> frozenset[str]:
        """Names of the files that an earlier sync has written."""
        return frozenset() if self.companion is None else frozenset(self.companion.files)

    def require_synced(self, content: bytes) -> None:
        """Make sure that no bundle is replaced but one that can be synced again.

        Args:
            content: The manifest that is to be there.

        Raises:
            BundleError: ``target-exists``.
        """
        if self.manifest in (None, content) or os.path.lexists(self.target / COMPANION_NAME):
            return
        raise BundleError(
            "target-exists",
            f"{self.target} is another bundle, and nothing says that a sync has written it: it has no "
            f"{COMPANION_NAME}.",
            "Choose another folder, or move this one away.",
        )

    def right(self, files: Mapping[str, ShippedFile]) -> frozenset[str]:
        """Which of the files are there with the size and hash that they should have."""
        return frozenset(
            name for name, file in files.items() if is_as_listed(self.target, self.place(name), file)
        )

    def place(self, name: str) -> str:
        """Where the folder has one of the server's files: the notes' layout puts those aside that it changes."""
        return served_name(name) if self.layout == "notes" and name in REPLACED else name

    def is_whole(self) -> bool:
        """Whether all is right that a layout adds to the server's files."""
        if self.layout == "bundle":
            return True
        files = {} if self.companion is None else self.companion.files
        return bool(files) and all(is_as_listed(self.target, name, file) for name, file in files.items())


def served_name(name: str) -> str:
    """Where the notes' layout keeps one of `REPLACED`."""
    return f"{SERVED_FOLDER}/{name}"


def read_local(target: Path) -> LocalSync:
    """Look at a target, which need not be there."""
    layout: Layout = "notes" if os.path.lexists(target / served_name(MANIFEST_NAME)) else "bundle"
    manifest: bytes | None = None
    # Missing, or no plain file: then it is fetched.
    with suppress(OSError):
        name = served_name(MANIFEST_NAME) if layout == "notes" else MANIFEST_NAME
        manifest = read_bounded(target / name, LARGEST_DOCUMENT)
    companion: SyncManifest | None = None
    with suppress(BundleError):
        companion = read_companion(target)
    return LocalSync(target, layout, manifest, companion)

"""A bundle as one zip file: the same bytes for the same bundle."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import Manifest

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can name."""
_TEXT = (".json", ".py", ".txt")
_PLAIN_FILE = 0o644 << 16
_BLOCK = 1 << 20


def write_zip(folder: Path, manifest: Manifest, target: Path, *, top: str) -> None:
    """Write a bundle's files into a zip file, its manifest first.

    Args:
        folder: The bundle.
        manifest: Its manifest: what it does not list is left out.
        target: The zip file.
        top: The one folder that the zip file has at its top.
    """
    with zipfile.ZipFile(target, "w", strict_timestamps=True) as archive:
        for name in (MANIFEST_NAME, *sorted(manifest.files)):
            entry = zipfile.ZipInfo(f"{top}/{name}", _EARLIEST)
            entry.external_attr = _PLAIN_FILE
            # Weights and tables are numbers that hardly get smaller, and may be large.
            entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(_TEXT) else zipfile.ZIP_STORED
            size = (folder / name).stat().st_size
            entry.file_size = size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, _BLOCK)

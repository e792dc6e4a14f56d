"""``manifest.json``: what a bundle is, where it comes from, and the hash of every file in it."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from rdagent_sota_patch import __version__
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME
from rdagent_sota_patch.bundle.writing import to_json

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import Manifest

_DISTRIBUTIONS = {
    "rdagent": "rdagent",
    "qlib": "pyqlib",
    "pandas": "pandas",
    "numpy": "numpy",
    "lightgbm": "lightgbm",
    "torch": "torch",
}


def describe_versions() -> dict[str, str | None]:
    """Versions of what trains and scores, from their metadata, without importing them; None where not installed."""
    found = {name: _version(distribution) for name, distribution in _DISTRIBUTIONS.items()}
    return {"rdagent_sota_patch": __version__, **found, "python": platform.python_version()}


def utc_now() -> str:
    """Now, in ISO 8601 with seconds and offset."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, the last of a bundle's files but its signature."""
    (folder / MANIFEST_NAME).write_bytes(to_json(manifest))


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None

"""The data folder of factor code: which of its files are given to it, and which are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.inside import MAIN, kind_of

LARGEST_OTHER = 1 << 20
"""Bytes up to which a file that is not a table is given as it is: a description, a list of columns."""

_HINT = "Name the folder that FACTOR_CoSTEER_DATA_FOLDER names, or its daily_pv.h5."


@dataclass(frozen=True, slots=True)
class DataFolder:
    """What factor code is given.

    Attributes:
        path: As it was named: a folder, or ``daily_pv.h5`` alone under whatever name.
        files: By the name under which factor code finds it: ``daily_pv.h5`` first, then in their order.
        left_out: Entries that are not given, with the reason.
    """

    path: Path
    files: Mapping[str, Path]
    left_out: Mapping[str, str]

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the HDF5, parquet and CSV files."""
        return tuple(name for name in self.files if kind_of(name) != "other")


def look_into(path: Path) -> DataFolder:
    """List a data folder; a single file counts as a folder with ``daily_pv.h5`` alone.

    Given are the files that are directly in it. Folders within it, hidden files, and large files that are no tables
    are not: the last cannot be cut at a day.

    Raises:
        BundleError: ``market-data-unreadable`` where there is no ``daily_pv.h5``.
    """
    if path.is_file():
        return DataFolder(path, {MAIN: path}, {})
    if not path.is_dir():
        raise BundleError("market-data-unreadable", f"There is no file or folder {path}.", _HINT)
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    try:
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            if not entry.is_file():
                left_out[entry.name] = _what(entry)
            elif kind_of(entry.name) == "other" and entry.stat().st_size > LARGEST_OTHER:
                left_out[entry.name] = (
                    "it is not a table that can be cut at a day (HDF5, parquet, CSV), and large"
                )
            else:
                files[entry.name] = entry
    except OSError as error:
        raise BundleError(
            "market-data-unreadable", f"{path} cannot be read: {error.strerror or error}.", _HINT
        ) from error
    if MAIN in left_out:
        raise BundleError("market-data-unreadable", f"{path / MAIN} cannot be used: {left_out[MAIN]}.", _HINT)
    if MAIN not in files:
        found = ", ".join(files) or "no file"
        raise BundleError("market-data-unreadable", f"{path} has no {MAIN}; it has {found}.", _HINT)
    return DataFolder(path, {MAIN: files.pop(MAIN), **files}, left_out)


def _what(entry: Path) -> str:
    if entry.is_dir():
        return "it is a folder"
    return "it is a link that leads nowhere" if entry.is_symlink() else "it is a pipe, a device or a socket"

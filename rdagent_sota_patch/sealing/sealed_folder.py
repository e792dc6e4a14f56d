"""All data of a run without the days from a seal on: made once for each state of the data, then found by its key."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import read_market
from rdagent_sota_patch.sealing.qlib_copy import cut_provider
from rdagent_sota_patch.work_folder import hold_work, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

_FORMAT = "1"
"""Changes when what is cut, or how, changes: old copies are not used then."""
_NOTICES = "notices.json"
_KEY_LENGTH = 16


@dataclass(frozen=True, slots=True)
class SealedData:
    """Where the sealed copies are.

    Attributes:
        folder: All of them; named by `key`.
        qlib_home: What takes the place of ``~/.qlib``.
        providers: Each Qlib provider folder with its copy.
        data_folders: Each folder of factor data with its copy.
        notices: What was left out since it cannot be cut, or is in the copy whole since it names no day.
    """

    folder: Path
    qlib_home: Path
    providers: dict[Path, Path]
    data_folders: dict[Path, Path]
    notices: tuple[str, ...]

    @property
    def key(self) -> str:
        """Of the day and the state of the data."""
        return self.folder.name


def make_sealed(
    store: Path, day: date, providers: Sequence[Path], data_folders: Sequence[Path], home: Path
) -> SealedData:
    """The sealed copies of some folders; made where they are not there yet, and in place as a whole or not at all.

    Args:
        store: Where copies are kept; made if it is not there.
        day: The first day that is in none of them.
        providers: Qlib provider folders.
        data_folders: Folders of factor data, with ``daily_pv.h5`` and what lies beside it.
        home: Qlib's own folder, ``~/.qlib``; a provider in it is at the same place in `SealedData.qlib_home`.

    Raises:
        SotaError: ``seal-data-unreadable``, ``market-data-unreadable``, ``market-data-too-short``, ``cannot-write``.
    """
    providers, data_folders = list(dict.fromkeys(providers)), list(dict.fromkeys(data_folders))
    folder = store / _key(day, [*providers, *data_folders])
    places = {
        path: Path("qlib") / (path.relative_to(home) if path.is_relative_to(home) else f"provider-{number}")
        for number, path in enumerate(providers)
    }
    data_places = {path: Path(f"factor-data-{number}") for number, path in enumerate(data_folders)}
    if not folder.is_dir():
        try:
            store.mkdir(parents=True, exist_ok=True)
            with hold_work(store) as making:
                try:
                    _make(making, day, places, data_places)
                    _put_in_place(making, folder)
                finally:
                    remove_tree(making)
        except OSError as error:
            raise SotaError(
                "cannot-write",
                f"The sealed copy of the data cannot be written to {store}: {error.strerror or error}.",
                "Check that it is writable and has room for a copy of Qlib's data.",
            ) from error
    notices = json.loads((folder / _NOTICES).read_text(encoding="utf-8"))
    return SealedData(
        folder,
        folder / "qlib",
        {path: folder / place for path, place in places.items()},
        {path: folder / place for path, place in data_places.items()},
        tuple(notices),
    )


def _make(making: Path, day: date, providers: dict[Path, Path], data_folders: dict[Path, Path]) -> None:
    notices = []
    # A container's user has to read it.
    making.chmod(0o755)
    (making / "qlib").mkdir()
    for source, place in providers.items():
        (making / place).parent.mkdir(parents=True, exist_ok=True)
        left_out = cut_provider(source, making / place, day)
        if left_out:
            shown = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
            notices.append(f"{source}: not in the sealed copy, since it cannot be cut at a day: {shown}.")
    for source, place in data_folders.items():
        notices += cut_data_folder(source, making / place, day)
    (making / _NOTICES).write_text(json.dumps(notices, ensure_ascii=False), encoding="utf-8")


def _put_in_place(making: Path, folder: Path) -> None:
    try:
        making.rename(folder)
    except OSError:
        # Another run may have made the same meanwhile.
        if not folder.is_dir():
            raise


def cut_data_folder(source: Path, target: Path, day: date) -> list[str]:
    """Write a folder of factor data without the days from ``day`` on to a new folder ``target``.

    Returns:
        What is to be said of it: files that are left out, or that name no day and are there whole.

    Raises:
        BundleError: ``market-data-unreadable``, ``market-data-too-short``.
    """
    last = pd.Timestamp(day) - pd.Timedelta(1, "ns")
    with Jail(trusted=True) as jail:
        market = read_market(source, jail=jail)
        (cut,) = market.folders([(None, last)])
        target.mkdir(parents=True)
        for entry in cut.iterdir():
            shutil.copyfile(entry, target / entry.name)
        return [problem.message for problem in market.find_notices()]


def _key(day: date, folders: Sequence[Path]) -> str:
    """Of the names, sizes and times of all files: what was cut once is not read again to find that out."""
    digest = hashlib.sha256(f"{_FORMAT} {day}".encode())
    for folder in folders:
        digest.update(os.fsencode(f"\n{folder}\n"))
        for line in _state(folder):
            digest.update(line)
    return f"{day}-{digest.hexdigest()[:_KEY_LENGTH]}"


def _state(folder: Path) -> Iterator[bytes]:
    try:
        # Features are often a link to another disk.
        for root, names, files in os.walk(folder, followlinks=True):
            names.sort()
            for name in sorted(files):
                path = Path(root, name)
                found = path.stat()
                yield os.fsencode(f"{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}\n")
    except OSError as error:
        raise SotaError(
            "seal-data-unreadable",
            f"Data cannot be sealed: {error.filename or folder}: {error.strerror or error}.",
            "Check the folder and its permissions.",
        ) from error

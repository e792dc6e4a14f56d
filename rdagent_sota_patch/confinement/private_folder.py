"""A run's private folder: furnished before it, its results taken out after it, removed whatever is in it."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rdagent_sota_patch.confinement.probe import what_confines


def furnish(
    work: Path, texts: Mapping[str, str], inputs: Mapping[str, Path], own_copies: Mapping[str, Path]
) -> list[str]:
    """Make the working folder with what belongs in it; return what must be readable outside it."""
    work.mkdir(mode=0o700)
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    copies = dict(own_copies)
    readable: list[str] = []
    for name, source in inputs.items():
        if what_confines().files:
            real = source.resolve(strict=True)
            (work / name).symlink_to(real)
            readable.append(str(real))
        else:  # Nothing else keeps it from being changed.
            copies[name] = source
    for name, source in copies.items():
        _copy(source, work / name)
    return readable


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def remove_folder(folder: Path) -> None:
    """Remove what a program left: however deep it is, and whatever rights its folders were given.

    Folders are moved to the top before they are emptied, so that no path becomes too long.
    """
    prefix = f".{secrets.token_hex(8)}-"
    waiting, emptied = [folder], []
    while waiting:
        current = waiting.pop()
        emptied.append(current)
        # What cannot be removed stays in the system's folder for temporary files; the run is over either way.
        with suppress(OSError):
            for entry in list(os.scandir(current)):
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink()
                    continue
                Path(entry.path).chmod(0o700)
                moved = folder / f"{prefix}{len(emptied) + len(waiting)}"
                Path(entry.path).rename(moved)
                waiting.append(moved)
    for path in reversed(emptied):
        with suppress(OSError):
            path.rmdir()


def take_outputs(work: Path, names: Sequence[str], place: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Move the expected files out of the working folder, where nothing runs any more."""
    taken: dict[str, Path] = {}
    unfit: dict[str, str] = {}
    for name in names:
        try:
            found = (work / name).lstat()
        except FileNotFoundError:
            unfit[name] = "it is missing"
            continue
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            unfit[name] = "it is no plain file"
            continue
        taken[name] = place / name
        (work / name).chmod(0o600)  # It may have been made without any right.
        (work / name).rename(taken[name])
    return taken, unfit

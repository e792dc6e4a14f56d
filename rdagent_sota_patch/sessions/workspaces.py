"""Where a workspace may be today: as recorded, under another system's spelling, or moved with its log."""

from __future__ import annotations

import re
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WORKSPACES = PurePosixPath("git_ignore_folder", "RD-Agent_workspace")
"""Below the project RD-Agent was started in (``rdagent/core/conf.py``, ``workspace_path``)."""
_SEALED = re.compile(r"[/\\](sealed-\d{4}-\d\d-\d\d)[/\\]")

_WSL_MOUNT = re.compile(r"/mnt/([a-zA-Z])(?:/(.*))?")
_DRIVE = re.compile(r"([a-zA-Z]):[\\/](.*)")


def workspace_candidates(recorded: PurePath, log: Path, roots: Sequence[Path]) -> tuple[Path, ...]:
    """The places to look for a recorded workspace, in order, without looking.

    Args:
        recorded: The workspace's path as the writing machine spelled it.
        log: The run's log folder, ``<project>/log/<run>`` unless ``LOG_TRACE_PATH`` says otherwise.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
    """
    return tuple(dict.fromkeys(_candidates(recorded, log, roots)))


def find_workspace(
    recorded: PurePath, log: Path, roots: Sequence[Path], *, holding: str
) -> tuple[Path | None, tuple[Path, ...]]:
    """The first candidate folder that holds the named file, and every place that was looked at.

    A folder that may not be entered counts as one without the file: it stays in the list of places.
    """
    candidates = workspace_candidates(recorded, log, roots)
    for position, candidate in enumerate(candidates):
        if _is_file(candidate / holding):
            return candidate, candidates[: position + 1]
    return None, candidates


def find_workspace_holding(recorded: PurePath, log: Path, roots: Sequence[Path], folder: str) -> Path | None:
    """The first candidate that holds the named folder; None where none does."""
    places = workspace_candidates(recorded, log, roots)
    return next((place for place in places if is_folder(place / folder)), None)


def is_folder(path: Path) -> bool:
    """Whether a recorded path is a folder here."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        # It is another machine's: it may be too long here, or lead where we may not go.
        return False


def _candidates(recorded: PurePath, log: Path, roots: Sequence[Path]) -> Iterator[Path]:
    text = str(recorded)
    yield Path(text)
    if match := _DRIVE.fullmatch(text):
        drive, rest = match.groups()
        tail = PureWindowsPath(rest).as_posix()
        yield Path(f"/mnt/{drive.lower()}") / tail
        yield Path(f"{drive.upper()}:/{tail}")
    elif match := _WSL_MOUNT.fullmatch(recorded.as_posix()):
        drive, rest = match.groups()
        yield Path(f"{drive.upper()}:/{rest or ''}")
    name = _name(recorded)
    if not name:
        return
    # A run under a seal keeps its workspaces in a folder of their own (`plugin.sealed_run`).
    names = [name, *(f"{seal}/{name}" for seal in _SEALED.findall(str(recorded)))]
    for each in names:
        yield log.absolute().parent.parent / _WORKSPACES / each
    for root in roots:
        for each in names:
            yield root / each
            yield root / _WORKSPACES / each


def _name(recorded: PurePath) -> str:
    # A Windows path that was read as plain text is one single POSIX name.
    text = str(recorded)
    return PureWindowsPath(text).name if "\\" in text or _DRIVE.fullmatch(text) else recorded.name


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # A recorded path is another machine's: it may be too long here, or lead where we may not go.
        return False

"""Notice that a log has changed without reading it: names, sizes and times of its snapshots."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_NEWEST_LOOPS = 3
"""RD-Agent writes to several loops at a time, to each step's file once: older files are not asked for one by one."""


def stamp_log(log: Path) -> bytes:
    """What changes whenever a snapshot of the log is added or removed, or one of the newest loops is written to.

    Taken before a log is read, it differs from one that is taken later if a snapshot was being written meanwhile. A
    file of an older loop that is written over in place goes unnoticed: a log is read from its newest snapshot down, and
    RD-Agent, resumed at an older loop, removes what came after.
    """
    session = os.path.join(log, SESSION_FOLDER)  # noqa: PTH118 - text is several times as quick here
    facts = [_describe(session)]
    loops = sorted(_names(session), key=lambda name: (len(name), name), reverse=True)
    for number, loop in enumerate(loops):
        folder = f"{session}/{loop}"
        facts.append(_describe(folder))
        if number < _NEWEST_LOOPS:
            facts += [_describe(f"{folder}/{name}") for name in sorted(_names(folder))]
    return _digest(facts)


def stamp_files(paths: Iterable[Path]) -> bytes:
    """What changes whenever one of some files or folders is written, comes or goes."""
    return _digest(map(_describe, map(os.fspath, paths)))


def _digest(facts: Iterable[str]) -> bytes:
    # Paths come from logs, too, and may hold what no file system would.
    text = "\0".join(facts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except OSError:
        return []


def _describe(path: str) -> str:
    try:
        facts = os.stat(path)  # noqa: PTH116 - likewise
    except (OSError, ValueError) as error:
        return f"{path} {type(error).__name__}"
    return f"{path} {facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"

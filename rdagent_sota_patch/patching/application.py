"""Put a patch into a source, or take it out: all of its files, or none."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import HostError, Problem, SotaError
from rdagent_sota_patch.patching.source import SourceState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rdagent_sota_patch.patching.source import FileFinding, SourceReport


@dataclass(frozen=True, slots=True)
class _Change:
    path: Path
    before: bytes
    after: bytes


def apply_patch(report: SourceReport) -> tuple[Path, ...]:
    """Put the patch in; returns the files that were changed, none if it is in already.

    Raises:
        HostError: The source is changed, half patched or of another release; nothing was touched.
        SotaError: ``cannot-write``; no file was left changed.
    """
    return _bring_about(report, SourceState.APPLIED)


def revert_patch(report: SourceReport) -> tuple[Path, ...]:
    """Take the patch out; returns the files that were changed, none if it is not in.

    Afterwards the files are byte for byte what they were. Raises as ``apply_patch`` does.
    """
    return _bring_about(report, SourceState.APPLIES)


def _bring_about(report: SourceReport, wanted: SourceState) -> tuple[Path, ...]:
    if report.problems:
        raise HostError.of(report.problems)
    if report.state is wanted:
        return ()
    changes = [_change(file, forward=wanted is SourceState.APPLIED) for file in report.files]
    _require_writable(change.path for change in changes)
    _replace_all(changes)
    return tuple(change.path for change in changes)


def _change(file: FileFinding, *, forward: bool) -> _Change:
    assert file.content is not None
    patch = file.patch if forward else file.patch.reverse()
    changed = patch.apply(file.content.replace(file.newline, b"\n"))
    return _Change(file.path, file.content, changed.replace(b"\n", file.newline))


def _require_writable(paths: Iterable[Path]) -> None:
    # Replacing a file asks for its folder's permission alone; a file set read-only is meant to stay.
    problems = [
        Problem("cannot-write", f"{place} may not be written to.", "Check its permissions, and whose it is.")
        for path in paths
        for place in (path, path.parent)
        if not os.access(place, os.W_OK)
    ]
    if problems:
        raise SotaError.of(problems)


def _replace_all(changes: list[_Change]) -> None:
    try:
        with ExitStack() as stack:
            # Each is written to the disk before the first takes its place.
            for change in changes:
                stack.enter_context(replace_atomically(change.path)).write_bytes(change.after)
    except BaseException:
        for change in changes:
            if change.path.read_bytes() == change.after:
                with replace_atomically(change.path) as temporary:
                    temporary.write_bytes(change.before)
        raise

"""Which workspaces a run names, where they are on this machine, and how large; looking is bounded."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.fields import TaskId, Text, Why
from rdagent_sota_patch.results.schemas import Answer
from rdagent_sota_patch.sessions.workspaces import workspace_candidates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path, PurePath

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

_MEGABYTE = 1 << 20
_NAME = re.compile(r"[0-9a-f]{32}")
"""``uuid4().hex``, as RD-Agent names workspaces (``rdagent/core/experiment.py``). A session may name any folder of this
machine as one; no other is looked at, so that a forged log does not tell of it."""
_MOST_WORKSPACES = 1000


class WorkspaceItem(Answer):
    """One workspace of a run."""

    name: Annotated[Text, Field(description="Its folder's name.")]
    path: Annotated[
        Text, Field(description="Where it is on the server; as the session spells it when it is gone.")
    ]
    size_mb: Annotated[
        float | None, Field(ge=0, description="Of all its files, in MiB; null where it was not measured.")
    ]
    size_mb_error: Why


class WorkspaceList(Answer):
    """The workspaces of a run's experiments."""

    ok: Annotated[bool, Field(description="Whether all of them were measured.")]
    task_id: TaskId
    task_dir: Annotated[Text, Field(description="The run's log folder on the server.")]
    workspaces: Annotated[tuple[WorkspaceItem, ...], Field(description="In the order of the history.")]
    total_size_mb: Annotated[float, Field(ge=0, description="Of those that were measured.")]


@dataclass(slots=True)
class _Budget:
    """What may still be looked at."""

    entries: int
    until: float

    def spend(self) -> None:
        self.entries -= 1
        if self.entries < 0 or time.monotonic() > self.until:
            raise TimeoutError


def list_workspaces(session: Session, roots: Sequence[Path], *, quick: bool) -> WorkspaceList:
    """``/tasks/{task_id}/workspaces``.

    Args:
        session: The run.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        quick: Look at 20,000 files for 3 seconds at most; else at a million for 60 seconds.
    """
    budget = _Budget(20_000, time.monotonic() + 3) if quick else _Budget(1_000_000, time.monotonic() + 60)
    recorded = dict.fromkeys(each.workspace for each in session.experiments if each.workspace is not None)
    items = [_describe(each, session, roots, budget) for each in list(recorded)[:_MOST_WORKSPACES]]
    sizes = [item.size_mb for item in items if item.size_mb is not None]
    return WorkspaceList(
        ok=len(sizes) == len(recorded),
        task_id=session.task_id,
        task_dir=str(session.log),
        workspaces=tuple(items),
        total_size_mb=round(sum(sizes), 2),
    )


def find_named(record: ExperimentRecord, session: Session, roots: Sequence[Path]) -> Path:
    """An experiment's workspace on this machine, if it is called as RD-Agent calls them.

    Raises:
        ApiError: ``asset-not-available``.
    """
    place = None if record.workspace is None else _find(record.workspace, session, roots)
    if place is None:
        what = (
            "names no workspace" if record.workspace is None else f"{record.workspace} is not on this machine"
        )
        raise ApiError(
            "asset-not-available",
            f"Loop {record.loop} of {session.task_id}: {what}.",
            "If workspaces were moved, set SOTA_WORKSPACE_ROOT to the folder that holds them.",
        )
    return place


def _find(recorded: PurePath, session: Session, roots: Sequence[Path]) -> Path | None:
    return next(
        (
            place
            for place in workspace_candidates(recorded, session.log, roots)
            if _NAME.fullmatch(place.name) and os.path.isdir(place)  # noqa: PTH112 - it never raises
        ),
        None,
    )


def _describe(recorded: PurePath, session: Session, roots: Sequence[Path], budget: _Budget) -> WorkspaceItem:
    found = _find(recorded, session, roots)
    if found is None:
        why = "It is not on this machine." if _NAME.search(str(recorded)) else "No workspace is called so."
        return WorkspaceItem(name=recorded.name, path=str(recorded), size_mb=None, size_mb_error=why)
    size, error = None, None
    try:
        size = round(_measure(found, budget) / _MEGABYTE, 2)
    except TimeoutError:
        error = "It has too many files to be measured in this time; ask with quick=false."
    except OSError as failure:
        error = f"It cannot be looked at: {failure.strerror or failure}."
    return WorkspaceItem(name=found.name, path=str(found), size_mb=size, size_mb_error=error)


def _measure(folder: Path, budget: _Budget) -> int:
    """Bytes of all files below a folder; links are not followed."""
    total, waiting = 0, [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                budget.spend()
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total

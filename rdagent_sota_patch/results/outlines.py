"""The runs of a log root as rows: read many at a time, kept while their logs are as they were, and put in order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.results.describing import RunOutline, describe_row, describe_unreadable
from rdagent_sota_patch.results.reader import Reader
from rdagent_sota_patch.results.schemas import ANNUALIZED_RETURN, IC
from rdagent_sota_patch.results.tasks import LATEST, look_at_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rdagent_sota_patch.results.schemas import TaskItem
    from rdagent_sota_patch.results.tasks import LogState, Task

RunOrder = Literal["ended", "name", "kind", "loops", "accepted", "ic", "return", "factors"]
ORDERS: tuple[RunOrder, ...] = get_args(RunOrder)

_SIDE_BY_SIDE = 2
_TOGETHER = 250
"""Logs that one process reads, at the most."""
_GOOD_FOR = 0.2
_REST = 5
"""As in `views`: after looking and reading, for how many times as long a run counts as unchanged."""
_KEPT = 20_000
"""Rows kept in memory, some hundred bytes each."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A run's row, and what its log was like.

    Attributes:
        stamp: Of the log; None where the row is to be made again next time.
        good_until: Until then the log is not looked at.
    """

    item: TaskItem
    stamp: bytes | None
    good_until: float


class Outlines:
    """Rows of runs, for any number of requests at once."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._reader = Reader()
        self._rows: dict[str, _Row] = {}
        self._refreshing = threading.Lock()

    def read(self, tasks: Sequence[Task]) -> list[TaskItem]:
        """The rows of some runs, in their order; one that cannot be read has the reason in its row."""
        with self._refreshing:
            self._refresh(tasks)
            return [self._rows[task.task_id].item for task in tasks]

    def known(self, tasks: Sequence[Task]) -> list[TaskItem]:
        """The same without waiting: a run that has not been read yet has that in its row."""
        rows = [self._rows.get(task.task_id) for task in tasks]
        return [
            describe_unreadable(task.task_id, _not_yet(task), task.written) if row is None else row.item
            for task, row in zip(tasks, rows, strict=True)
        ]

    def close(self) -> None:
        """Begin no further reading."""
        self._reader.close()

    def _refresh(self, tasks: Sequence[Task]) -> None:
        # First, so that no log's time includes the start of the process that reads.
        self._reader.make_ready()
        begun = time.monotonic()
        changed: list[tuple[Task, LogState]] = []
        for task in tasks:
            row = self._rows.get(task.task_id)
            if row is not None and begun < row.good_until:
                continue
            state = look_at_log(task.log)
            if row is None or row.stamp != state.stamp:
                changed.append((task, state))
            else:
                self._rows[task.task_id] = _Row(row.item, row.stamp, begun + _GOOD_FOR)
        parts = [changed[start : start + _TOGETHER] for start in range(0, len(changed), _TOGETHER)]
        if len(parts) == 1:
            half = (len(changed) + 1) // 2
            parts = [changed[:half], changed[half:]]
        with ThreadPoolExecutor(_SIDE_BY_SIDE, thread_name_prefix="outlining") as pool:
            list(pool.map(self._read, filter(None, parts)))
        wanted = {task.task_id for task in tasks}
        for task_id in list(self._rows)[: max(0, len(self._rows) - _KEPT)]:
            if task_id not in wanted:
                del self._rows[task_id]

    def _read(self, changed: Sequence[tuple[Task, LogState]]) -> None:
        begun = time.monotonic()
        for place, outline in self._reader.outline([task.log for task, _ in changed]):
            task, state = changed[place]
            now = time.monotonic()
            good_until, begun = now + max(_GOOD_FOR, _REST * (now - begun)), now
            self._rows[task.task_id] = _make_row(task, state, outline, good_until)


def _make_row(task: Task, state: LogState, outline: RunOutline | SotaError, good_until: float) -> _Row:
    if task.task_id == LATEST:
        outline = _reserved(task)
    if isinstance(outline, SotaError):
        # Tried again: it may have been for want of a key or a permission.
        return _Row(describe_unreadable(task.task_id, outline, state.written), None, good_until)
    return _Row(describe_row(task.task_id, outline, state.written), state.stamp, good_until)


def sort_runs(runs: Iterable[TaskItem], order: RunOrder, *, reverse: bool = False) -> list[TaskItem]:
    """Runs by a column, the newest, the most or the best first; by name and kind from A on.

    Runs without a value come last, also in reverse; those with the same value stay in their order.
    """
    value = _VALUES[order]
    known: list[TaskItem] = []
    unknown: list[TaskItem] = []
    for run in runs:
        (unknown if run.problem is not None or value(run) is None else known).append(run)
    descending = order not in ("name", "kind")
    return sorted(known, key=value, reverse=descending != reverse) + unknown


def best_of(run: TaskItem, metric: str) -> float | None:
    """The best value of a metric among the loops that a run accepted; None without one."""
    return next((best.value for best in run.best if best.metric == metric), None)


_VALUES: dict[RunOrder, Callable[[TaskItem], Any]] = {
    "ended": lambda run: run.ended_at_utc or run.updated_at_utc,
    "name": lambda run: run.task_id,
    "kind": lambda run: run.kind,
    "loops": lambda run: run.loops,
    "accepted": lambda run: run.accepted,
    "ic": lambda run: best_of(run, IC),
    "return": lambda run: best_of(run, ANNUALIZED_RETURN),
    "factors": lambda run: run.sota_factors,
}


def _not_yet(task: Task) -> ApiError:
    return ApiError(
        "reading-took-too-long",
        f"The log of {task.task_id} has not been read yet.",
        "Ask again: it is being read.",
    )


def _reserved(task: Task) -> ApiError:
    return ApiError(
        "task-id-reserved",
        f"A log folder is called {task.task_id!r}, and that id means the newest run with accepted factors.",
        "Rename the folder, and its run can be asked for.",
    )

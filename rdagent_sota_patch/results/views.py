"""Runs as they are served: read when their log has changed, once for all who ask, and kept."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.results import describing
from rdagent_sota_patch.results.assets import Asset, asset_of_bytes
from rdagent_sota_patch.results.disk_use import find_named
from rdagent_sota_patch.results.reader import Reader
from rdagent_sota_patch.results.sota import ENTRY, WEIGHT_KEYS, Sota, Spool, describe_sota, take_out_weights
from rdagent_sota_patch.results.tasks import look_at_log, stamp_files

if TYPE_CHECKING:
    from pydantic import BaseModel

    from rdagent_sota_patch.results.curves import Curves
    from rdagent_sota_patch.results.schemas import (
        LoopList,
        SessionAnchor,
        SotaFactorAnchor,
        TaskManifest,
        TaskSummary,
    )
    from rdagent_sota_patch.results.tasks import Task
    from rdagent_sota_patch.sessions.records import Session

JSON = "application/json"

_GOOD_FOR = 0.2
"""Seconds for which a run counts as unchanged once it was looked at: a look asks for each of its snapshots."""
_REST = 5
"""After looking and reading, for how many times as long a run counts as unchanged, however large its log is."""
_THREADS = 32
"""That look at logs, and wait for those that are read; see `Reader` for how many are read at a time."""
_KEPT = 256
"""Runs kept in memory."""
_LONGEST_READ = 300.0
"""Seconds that a request waits for a log to be read."""


class RunView:
    """One run at one moment, with its answers, each made when it is first asked for.

    Attributes:
        session: Without the weights that it may hold: these are files by now.
        updated: When its newest snapshot was written, in seconds since the epoch.
        curves: Lines of its loops' back-tests that were read already, by loop.
    """

    def __init__(self, session: Session, sota: Sota | None, updated: float) -> None:
        self.session = session
        self.sota = sota
        self.updated = updated
        self.curves: dict[int, Curves] = {}
        self._answers: dict[str, Asset] = {}

    @cached_property
    def manifest(self) -> TaskManifest:
        """``/tasks/{task_id}``."""
        return describing.describe_manifest(self.session, self.sota, self.updated)

    @cached_property
    def summary(self) -> TaskSummary:
        """``/tasks/{task_id}/summary``."""
        return describing.describe_summary(self.session, self.sota, self.updated)

    @cached_property
    def loops(self) -> LoopList:
        """``/tasks/{task_id}/loops``."""
        return describing.describe_loops(self.session, self.sota)

    @cached_property
    def session_anchor(self) -> SessionAnchor:
        """``/tasks/{task_id}/session_anchor``."""
        return describing.describe_session(self.session)

    @cached_property
    def anchor(self) -> SotaFactorAnchor:
        """``/tasks/{task_id}/sota_factor_anchor``, as far as it is known without a bundle."""
        return describing.describe_anchor(self.session, self.sota)

    def anchor_after(self, bundle_error: str | None) -> Asset:
        """The same as JSON, once it is known whether there is a bundle.

        Args:
            bundle_error: Why there is none.
        """
        name = f"anchor {bundle_error}"
        if name not in self._answers:
            document = describing.describe_anchor(self.session, self.sota, bundle_error)
            self._answers[name] = asset_of_bytes("anchor", document.model_dump_json().encode(), JSON)
        return self._answers[name]

    @property
    def codes(self) -> dict[str, str]:
        """Text of factor code, by key."""
        found = {} if self.sota is None else self.sota.codes
        return {
            key: asset.content.decode("utf-8", "backslashreplace")
            for key, asset in found.items()
            if asset.content is not None
        }

    def answer(self, name: str) -> Asset:
        """One of the answers above as JSON, by its attribute's name."""
        if name not in self._answers:
            document: BaseModel = getattr(self, name)
            self._answers[name] = asset_of_bytes(name, document.model_dump_json().encode(), JSON)
        return self._answers[name]

    async def make(self, name: str) -> Asset:
        """The same, made in a thread: one of ten thousand factors takes a while."""
        made = self._answers.get(name)
        return made if made is not None else await asyncio.to_thread(self.answer, name)

    def find_asset(self, key: str, asked: str | None = None) -> Asset | None:
        """Weights or factor code by its key; None for any other key.

        Args:
            key: Of the asset.
            asked: What the client called it, if otherwise.

        Raises:
            ApiError: ``asset-not-available``: a run should have what the key names, and this one does not.
        """
        sota = self.sota
        if key in WEIGHT_KEYS:
            if sota is not None and sota.weights.asset is not None:
                return replace(sota.weights.asset, key=key)
            why = self.anchor.resolved_model_weight_key_error
        else:
            found = None if sota is None else sota.codes.get(key)
            if found is not None or key != ENTRY:
                return found
            why = self.anchor.resolved_factor_entry_key_error
        raise ApiError(
            "asset-not-available",
            f"{self.session.task_id} has no {asked or key}: {why}",
            "See sota_factor_anchor for what the run has.",
        )


@dataclass(slots=True)
class _Entry:
    """What is known of a run, and until when that is good."""

    lock: asyncio.Lock
    stamp: bytes | None = None
    found: RunView | SotaError | None = None
    good_until: float = 0.0


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: bytes
    found: RunView | SotaError
    seconds: float


class Views:
    """The runs as they are now, for any number of requests at once."""

    def __init__(self, roots: tuple[Path, ...], spool: Spool) -> None:
        """Nothing is read yet.

        Args:
            roots: The folders of ``SOTA_WORKSPACE_ROOT``.
            spool: See `describe_sota`.
        """
        self._roots = roots
        self._spool = spool
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._reader = Reader()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="looking")

    async def get(self, task: Task) -> RunView:
        """One run, read again if its log has changed.

        Raises:
            SotaError: The log cannot be read; see `read_session`. ``reading-took-too-long``.
        """
        entry = self._entries.get(task.task_id)
        if entry is None:
            entry = self._entries[task.task_id] = _Entry(asyncio.Lock())
            while len(self._entries) > _KEPT:
                self._entries.popitem(last=False)
        self._entries.move_to_end(task.task_id)
        if time.monotonic() >= entry.good_until:
            async with entry.lock:
                # Those who waited for the lock find it done.
                if time.monotonic() >= entry.good_until:
                    await self._refresh(task, entry)
        if isinstance(entry.found, SotaError):
            raise entry.found.with_traceback(None)
        assert entry.found is not None
        return entry.found

    def curves(self, view: RunView, loop: int) -> Curves | SotaError:
        """The lines of the back-test of one of a run's loops, or why there are none; kept with the view.

        Raises:
            ApiError: ``loop-not-found``.
        """
        record = describing.find_loop(view.session, loop)
        if loop not in view.curves:
            try:
                workspace = find_named(record, view.session, self._roots)
                hint = None if record.artifacts is None else dict(record.artifacts)
                view.curves[loop] = self._reader.read_curves(workspace, hint)
            except SotaError as error:
                # A table may come back: not kept.
                return error
        return view.curves[loop]

    def close(self) -> None:
        """Begin no further reading."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._reader.close()

    async def _refresh(self, task: Task, entry: _Entry) -> None:
        loop = asyncio.get_running_loop()
        # What could not be read is tried again: it may have been for want of a key or a permission.
        known = None if isinstance(entry.found, SotaError) else entry.stamp
        work = loop.run_in_executor(self._threads, self._look, task, known, _watched(entry.found))
        try:
            # Shielded: the next request goes on waiting for the same reading.
            read = await asyncio.wait_for(asyncio.shield(work), _LONGEST_READ)
        except asyncio.TimeoutError:
            raise ApiError(
                "reading-took-too-long",
                f"The log of {task.task_id} was not read within {_LONGEST_READ:.0f} seconds.",
                "Ask again later; the server may be reading many logs.",
            ) from None
        if isinstance(read, _Read):
            entry.stamp, entry.found, seconds = read.stamp, read.found, read.seconds
        else:
            seconds = read
        entry.good_until = time.monotonic() + max(_GOOD_FOR, seconds * _REST)

    def _look(self, task: Task, known: bytes | None, watched: tuple[Path, ...]) -> _Read | float:
        """Read the run if it is not as it was; else the seconds that looking took."""
        self._reader.make_ready()
        start = time.monotonic()
        log = look_at_log(task.log)
        if log.stamp + stamp_files(watched) == known:
            return time.monotonic() - start
        found = self._read(task, log.written)
        return _Read(log.stamp + stamp_files(_watched(found)), found, time.monotonic() - start)

    def _read(self, task: Task, written: float) -> RunView | SotaError:
        try:
            session, weights = take_out_weights(self._reader.read(task.log))
            sota = describe_sota(session, weights, self._roots, self._spool)
        except SotaError as error:
            return error
        return RunView(session, sota, written)


def _watched(found: RunView | SotaError | None) -> tuple[Path, ...]:
    return found.sota.watched if isinstance(found, RunView) and found.sota is not None else ()

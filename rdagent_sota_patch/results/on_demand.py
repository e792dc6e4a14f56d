"""What is made when it is first asked for: once for all who ask, in a folder of the server's own, kept by its name."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.results.room import make_aside, make_room, mark_used, put, throw_out

if TYPE_CHECKING:
    from rdagent_sota_patch.results.exporter import Exporter

Request = TypeVar("Request")
Made = TypeVar("Made")

_FAILURE_GOOD_FOR = 60.0
"""Seconds for which a failure is repeated without trying again: its cause may lie outside of what is looked at."""


class OnDemand(ABC, Generic[Request, Made]):
    """Makes things of one kind, one at a time; whoever asks for the same one waits for it."""

    def __init__(self, cache: Path, limit_bytes: int, exporter: Exporter) -> None:
        """Use a folder of the server's own.

        Args:
            cache: Keeps what was made between runs of the server.
            limit_bytes: What was not used for longest goes when there is more.
            exporter: Makes what is not there.
        """
        self._folder = cache
        self._limit = limit_bytes
        self._exporter = exporter
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="exporting")
        self._ready: dict[str, Made] = {}
        self._work: dict[str, asyncio.Future[Made]] = {}
        self._failed: dict[str, tuple[float, SotaError]] = {}

    async def get(self, request: Request) -> Made:
        """What was asked for, made unless it is there.

        Raises:
            SotaError: It cannot be made; see the kind.
        """
        key = await self._key(request)
        ready = self.find_ready(key)
        if ready is not None:
            return ready
        failed = self._failed.get(key)
        if failed is not None and time.monotonic() - failed[0] < _FAILURE_GOOD_FOR:
            raise failed[1].with_traceback(None)
        work = self._work.get(key)
        if work is None:
            loop = asyncio.get_running_loop()
            work = self._work[key] = loop.run_in_executor(self._worker, self._make, request, key)
            work.add_done_callback(lambda done: self._settle(key, done))
        # Shielded: who goes away does not end it for the others.
        return await asyncio.shield(work)

    def find_ready(self, key: str) -> Made | None:
        """What is there under a name, without making it."""
        path = self._folder / key
        if key not in self._ready or not path.exists():
            return None
        mark_used(path)
        return self._ready[key]

    async def close(self) -> None:
        """End what is being made, for which the server could otherwise not stop."""
        self._exporter.stop()
        self._worker.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*self._work.values(), return_exceptions=True)

    @abstractmethod
    async def _key(self, request: Request) -> str:
        """A name for all that it is made of."""

    @abstractmethod
    def _produce(self, request: Request, path: Path) -> None:
        """Make it at ``path``, where nothing is yet."""

    @abstractmethod
    def _open(self, path: Path) -> Made:
        """What lies at ``path``.

        Raises:
            SotaError: It is damaged.
        """

    def _settle(self, key: str, done: asyncio.Future[Made]) -> None:
        del self._work[key]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._ready = {name: each for name, each in self._ready.items() if (self._folder / name).exists()}
            self._ready[key] = done.result()
        elif isinstance(error, SotaError):
            self._failed = {
                name: (at, each)
                for name, (at, each) in self._failed.items()
                if time.monotonic() - at < _FAILURE_GOOD_FOR
            }
            self._failed[key] = (time.monotonic(), error)

    def _make(self, request: Request, key: str) -> Made:
        path = self._folder / key
        if path.exists():
            with suppress(SotaError):
                # One that was damaged is made again.
                return self._use(path)
            throw_out(path)
        make_room(self._folder, self._limit)
        # What is ended on its way leaves nothing but this folder, which goes.
        with make_aside(self._folder) as work:
            made = work / "made"
            self._produce(request, made)
            put(made, path)
        return self._use(path)

    def _use(self, path: Path) -> Made:
        made = self._open(path)
        mark_used(path)
        return made

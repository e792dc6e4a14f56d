"""Bundles of the runs that are served: exported once, and kept by what they are made of."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rdagent_sota_patch import __version__
from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, Manifest
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.exporting.choice import choose_experiment, find_workspace_of
from rdagent_sota_patch.factors.sources import TABLE_NAME
from rdagent_sota_patch.recorders.recorder import (
    DATASET,
    PREDICTIONS,
    TASK,
    WEIGHTS,
    find_recorder,
    measure,
    parse_hint,
)
from rdagent_sota_patch.results.assets import Asset, asset_of_bytes
from rdagent_sota_patch.results.room import make_aside, make_room, mark_used, put, throw_out
from rdagent_sota_patch.results.watching import stamp_files
from rdagent_sota_patch.results.zipping import write_zip

if TYPE_CHECKING:
    from rdagent_sota_patch.results.exporter import BundleRequest, Exporter, Stage
    from rdagent_sota_patch.results.views import RunView

_FAILURE_GOOD_FOR = 10.0
"""Seconds for which a failure is repeated without trying again: its cause may lie outside of what is looked at."""
_BLOCK = 1 << 20
_ARTIFACTS = (WEIGHTS, TASK, DATASET, PREDICTIONS, "config")
"""Of a recorder: what an export reads."""
_MEDIA_TYPES = {
    ".json": "application/json",
    ".py": "text/x-python",
    ".txt": "text/plain; charset=utf-8",
}
_ZIP = "application/zip"
_UNSAFE = re.compile(r"[^\w.-]")


@dataclass(frozen=True, slots=True, eq=False)
class ServedBundle:
    """A bundle in the server's own folder, every file held to its manifest.

    Attributes:
        folder: Named by what it was made of.
        manifest_bytes: ``manifest.json`` itself.
    """

    folder: Path
    manifest: Manifest
    manifest_bytes: bytes

    def find_asset(self, key: str) -> Asset | None:
        """One of the bundle's files by its relative path; None for what the manifest does not list."""
        if key == MANIFEST_NAME:
            return asset_of_bytes(key, self.manifest_bytes, _MEDIA_TYPES[".json"])
        listed = self.manifest.files.get(key)
        if listed is None:
            return None
        media_type = _MEDIA_TYPES.get(Path(key).suffix, "application/octet-stream")
        return Asset(key, media_type, listed.size, listed.sha256, path=self.folder / key)


class Bundles:
    """Exports on demand, one at a time; whoever asks for the same one waits for it."""

    def __init__(self, cache: Path, limit_bytes: int, exporter: Exporter) -> None:
        """Use a folder of the server's own.

        Args:
            cache: Holds bundles and zips between runs of the server.
            limit_bytes: Those not used for longest go when there is more.
            exporter: Makes what is not there.
        """
        self._folder = cache
        self._limit = limit_bytes
        self._exporter = exporter
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="exporting")
        self._keys: WeakKeyDictionary[RunView, dict[tuple[Stage, bool], str]] = WeakKeyDictionary()
        self._ready: dict[str, ServedBundle] = {}
        self._work: dict[str, asyncio.Future[ServedBundle]] = {}
        self._zips: dict[str, Asset] = {}
        self._failed: dict[str, tuple[float, SotaError]] = {}

    async def get(self, request: BundleRequest) -> ServedBundle:
        """A bundle, exported unless it is there.

        Raises:
            SotaError: It cannot be exported; see `export_bundle`. ``export-took-too-long``.
        """
        key = await self._key(request)
        if key in self._ready and self._ready[key].folder.is_dir():
            mark_used(self._ready[key].folder)
            return self._ready[key]
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

    async def get_zip(self, request: BundleRequest) -> Asset:
        """A bundle as one zip file."""
        bundle = await self.get(request)
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._zip, request, bundle)

    async def close(self) -> None:
        """End the export that is under way, for which the server could otherwise not stop."""
        self._exporter.stop()
        self._worker.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*self._work.values(), return_exceptions=True)

    async def _key(self, request: BundleRequest) -> str:
        """The name of a bundle; a run's, as it is now, is found once."""
        keys = self._keys.setdefault(request.view, {})
        name = (request.stage, request.replay)
        if name not in keys:
            keys[name] = await asyncio.to_thread(_name_bundle, request, self._exporter.roots)
        return keys[name]

    def _settle(self, key: str, done: asyncio.Future[ServedBundle]) -> None:
        del self._work[key]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._ready = {name: each for name, each in self._ready.items() if each.folder.is_dir()}
            self._ready[key] = done.result()
        elif isinstance(error, SotaError):
            self._failed = {
                name: (at, each)
                for name, (at, each) in self._failed.items()
                if time.monotonic() - at < _FAILURE_GOOD_FOR
            }
            self._failed[key] = (time.monotonic(), error)

    def _make(self, request: BundleRequest, key: str) -> ServedBundle:
        folder = self._folder / key
        if folder.is_dir():
            with suppress(SotaError):
                # One that was damaged is made anew.
                return _open(folder)
            throw_out(folder)
        make_room(self._folder, self._limit)
        # What an export that is ended leaves goes with its folder.
        with make_aside(self._folder) as work:
            self._exporter.export(request, work / "bundle")
            put(work / "bundle", folder)
        return _open(folder)

    def _zip(self, request: BundleRequest, bundle: ServedBundle) -> Asset:
        path = bundle.folder.with_suffix(".zip")
        # A run's id may be anything that a folder can be called, here or on the system where this is unpacked.
        name = _UNSAFE.sub("_", f"{bundle.manifest.task_id}-{request.stage}").lstrip(".") + ".zip"
        known = self._zips.get(bundle.folder.name)
        if known is not None and path.is_file():
            mark_used(path)
            return known
        if not path.is_file():
            if not bundle.folder.is_dir():
                # It had to make room for another one while this waited for its turn.
                bundle = self._make(request, bundle.folder.name)
            with replace_atomically(path, durable=False) as temporary:
                write_zip(bundle.folder, bundle.manifest, temporary, top=Path(name).stem)
        size, sha256 = measure(path)
        asset = self._zips[bundle.folder.name] = Asset(name, _ZIP, size, sha256, path=path)
        return asset


def _open(folder: Path) -> ServedBundle:
    bundle = open_bundle(folder)
    mark_used(folder)
    return ServedBundle(folder, bundle.manifest, (folder / MANIFEST_NAME).read_bytes())


def _name_bundle(request: BundleRequest, roots: tuple[Path, ...]) -> str:
    """A name for what a bundle is made of: the snapshot's bytes, and the workspace's files by size and time."""
    session = request.view.session
    parts = (__version__, str(session.log), request.stage, str(request.replay))
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
    try:
        with session.snapshot.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ApiError(
            "run-moved-on",
            f"{session.task_id}: the snapshot {session.snapshot.name} is gone ({error.strerror or error}).",
            "Ask again.",
        ) from error
    choice = choose_experiment(session, request.stage)
    workspace = find_workspace_of(choice, roots)
    record = choice.experiment.artifacts
    recorder = find_recorder(workspace, None if record is None else parse_hint(record))
    digest.update(stamp_files((*(recorder.artifacts / name for name in _ARTIFACTS), workspace / TABLE_NAME)))
    return digest.hexdigest()[:32]

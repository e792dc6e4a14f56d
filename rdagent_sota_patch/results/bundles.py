"""Bundles, as folders and zip files, and figures: made when first asked for, and kept by what they are made of."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import time
import zipfile
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

from rdagent_sota_patch import __version__
from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, Manifest
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.export.choice import choose_experiment, find_workspace_of
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.mlruns.recorder import (
    DATASET,
    PREDICTIONS,
    TASK,
    WEIGHTS,
    find_recorder,
    measure,
    parse_hint,
)
from rdagent_sota_patch.results.assets import Asset, asset_of_bytes
from rdagent_sota_patch.results.cache_folder import make_room, mark_used, put, throw_out
from rdagent_sota_patch.results.factor_metrics import FactorMetrics
from rdagent_sota_patch.results.tasks import stamp_files
from rdagent_sota_patch.work_folder import make_aside

if TYPE_CHECKING:
    from rdagent_sota_patch.results.exporter import BundleRequest, Exporter, FiguresRequest, Stage
    from rdagent_sota_patch.results.views import RunView

_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can name."""
_TEXT = (".json", ".py", ".txt")
_PLAIN_FILE = 0o644 << 16
_BLOCK = 1 << 20


def write_zip(folder: Path, manifest: Manifest, target: Path, *, top: str) -> None:
    """Write a bundle's files into a zip file, its manifest first.

    Args:
        folder: The bundle.
        manifest: Its manifest: what it does not list is left out.
        target: The zip file.
        top: The one folder that the zip file has at its top.
    """
    with zipfile.ZipFile(target, "w", strict_timestamps=True) as archive:
        for name in (MANIFEST_NAME, *sorted(manifest.files)):
            entry = zipfile.ZipInfo(f"{top}/{name}", _EARLIEST)
            entry.external_attr = _PLAIN_FILE
            # Weights and tables are numbers that hardly get smaller, and may be large.
            entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(_TEXT) else zipfile.ZIP_STORED
            size = (folder / name).stat().st_size
            entry.file_size = size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, _BLOCK)


Request = TypeVar("Request")
Made = TypeVar("Made")

_FAILURE_GOOD_FOR = 60.0
"""Seconds for which a failure is repeated without trying again: its cause may lie outside of what is looked at."""


class OnDemand(ABC, Generic[Request, Made]):
    """Makes things of one kind, one at a time; who asks for the same one waits for it."""

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
            self._produce(request, work / "made")
            put(work / "made", path)
        return self._use(path)

    def _use(self, path: Path) -> Made:
        made = self._open(path)
        mark_used(path)
        return made


_BUNDLES_BLOCK = 1 << 20
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
    """A bundle in the server's own folder, every file checked against its manifest.

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


class Bundles(OnDemand["BundleRequest", ServedBundle]):
    """Exports on demand; see `export_bundle` for what they raise beside ``export-took-too-long``."""

    def __init__(self, cache: Path, limit_bytes: int, exporter: Exporter) -> None:
        """See `OnDemand`."""
        super().__init__(cache, limit_bytes, exporter)
        self._keys: WeakKeyDictionary[RunView, dict[tuple[Stage, bool], str]] = WeakKeyDictionary()
        self._zips: dict[str, Asset] = {}

    async def get_zip(self, request: BundleRequest) -> Asset:
        """A bundle as one zip file."""
        bundle = await self.get(request)
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._zip, request, bundle)

    async def _key(self, request: BundleRequest) -> str:
        """The name of a bundle; a run's, as it is now, is found once."""
        keys = self._keys.setdefault(request.view, {})
        name = (request.stage, request.replay)
        if name not in keys:
            keys[name] = await asyncio.to_thread(_name_bundle, request, self._exporter.roots)
        return keys[name]

    def _produce(self, request: BundleRequest, path: Path) -> None:
        self._exporter.export(request, path)

    def _open(self, path: Path) -> ServedBundle:
        bundle = open_bundle(path)
        return ServedBundle(path, bundle.manifest, (path / MANIFEST_NAME).read_bytes())

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


class Figures(OnDemand["FiguresRequest", Asset]):
    """Figures of a loop's factors; see `measure_factors` for what they raise beside ``export-took-too-long``."""

    async def find_made(self, request: FiguresRequest) -> Asset | None:
        """Those that were made before by this server; None for others."""
        return self.find_ready(await self._key(request))

    async def _key(self, request: FiguresRequest) -> str:
        return request.batch

    def _produce(self, request: FiguresRequest, path: Path) -> None:
        self._exporter.measure(request, path)

    def _open(self, path: Path) -> Asset:
        content = path.read_bytes()
        FactorMetrics.model_validate_json(content)
        return asset_of_bytes("factor_metrics", content, _MEDIA_TYPES[".json"])


def _name_bundle(request: BundleRequest, roots: tuple[Path, ...]) -> str:
    """A name for what a bundle is made of: the snapshot's bytes, and the workspace's files by size and time."""
    session = request.view.session
    parts = (__version__, str(session.log), request.stage, str(request.replay))
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
    try:
        with session.snapshot.open("rb") as file:
            while block := file.read(_BUNDLES_BLOCK):
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

"""Bundles of the runs that are served: exported once, and kept by what they are made of."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rdagent_sota_patch import __version__
from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, Manifest
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import ApiError
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
from rdagent_sota_patch.results.factor_metrics import FactorMetrics
from rdagent_sota_patch.results.on_demand import OnDemand
from rdagent_sota_patch.results.room import mark_used
from rdagent_sota_patch.results.watching import stamp_files
from rdagent_sota_patch.results.zipping import write_zip

if TYPE_CHECKING:
    from rdagent_sota_patch.results.exporter import BundleRequest, Exporter, FiguresRequest, Stage
    from rdagent_sota_patch.results.views import RunView

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

"""What the routes ask: runs, the newest accepted one, and their assets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.contents import is_inside
from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    CODE_NAME,
    CONFIG_NAME,
    FACTOR_FOLDER,
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    ORDER_NAME,
    REPLAY_FOLDER,
    REPORT_NAME,
    TENSORS_NAME,
)
from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.results.bundles import Bundles
from rdagent_sota_patch.results.describing import bundle_stages, describe_time, run_kind
from rdagent_sota_patch.results.exporter import BundleRequest, Exporter
from rdagent_sota_patch.results.schemas import ProblemItem, TaskItem, TaskList
from rdagent_sota_patch.results.sota import WEIGHT_KEYS, Spool
from rdagent_sota_patch.results.tasks import LATEST, Task, TaskFolder
from rdagent_sota_patch.results.views import RunView, Views
from rdagent_sota_patch.sessions.logs import last_written

if TYPE_CHECKING:
    from rdagent_sota_patch.results.assets import Asset
    from rdagent_sota_patch.results.exporter import Stage


@dataclass(frozen=True, slots=True)
class Folders:
    """What a server reads, and where it keeps what it made.

    Attributes:
        log_root: The folder that holds the runs' log folders.
        cache: A folder of the server's own.
        cache_bytes: How much of bundles it may hold, and how much of weights.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        qlib_dir: Qlib's data for the evidence of bundles; where the training had it, by default.
    """

    log_root: Path
    cache: Path
    cache_bytes: int = 20 << 30
    roots: tuple[Path, ...] = ()
    qlib_dir: Path | None = None


class Service:
    """Runs and their assets, as they are now."""

    def __init__(self, folders: Folders) -> None:
        """Look at the log root, and make the cache.

        Raises:
            ApiError: ``log-root-not-found``.
            SotaError: ``cannot-write``.
        """
        self._tasks = TaskFolder(folders.log_root)
        weights, bundles = folders.cache / "weights", folders.cache / "bundles"
        try:
            for folder in (weights, bundles):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SotaError(
                "cannot-write",
                f"Cannot make {folders.cache}: {error.strerror or error}.",
                "Name a folder that can be written to with --cache-dir.",
            ) from error
        self._views = Views(folders.roots, Spool(weights, folders.cache_bytes))
        exporter = Exporter(folders.roots, folders.qlib_dir)
        self._bundles = Bundles(bundles, folders.cache_bytes, exporter)

    async def close(self) -> None:
        """End what is under way, such as an export; nothing can be asked afterwards."""
        self._views.close()
        await self._bundles.close()

    async def list_tasks(self, limit: int, offset: int) -> TaskList:
        """Some of the runs, newest first; one that cannot be read is listed with the reason."""
        tasks = await asyncio.to_thread(self._tasks.list)
        items = await asyncio.gather(*map(self._describe, tasks[offset : offset + limit]))
        return TaskList(tasks=tuple(items), total=len(tasks), limit=limit, offset=offset)

    async def find(self, task_id: str) -> RunView:
        """One run.

        Raises:
            ApiError: ``task-not-found``, ``no-accepted-run``.
            SotaError: Its log cannot be read; see `read_session`.
        """
        if task_id == LATEST:
            return await self._find_latest()
        task = self._tasks.recall(task_id)
        if task is None:
            task = await asyncio.to_thread(self._tasks.find, task_id)
        return await self._views.get(task)

    async def find_asset(self, task_id: str, key: str, *, replay: bool) -> Asset:
        """Weights, factor code, or a file of the run's bundle.

        Args:
            task_id: The run.
            key: Of the asset.
            replay: For a file of the bundle: of the one with its evidence.

        Raises:
            ApiError: ``asset-not-found``, ``asset-not-available``.
            SotaError: The bundle cannot be exported.
        """
        view = await self.find(task_id)
        asset = view.find_asset(key)
        if asset is None and view.sota is not None and _may_be_in_bundle(key):
            asset = (await self._bundles.get(BundleRequest(view, "factor", replay))).find_asset(key)
        if asset is None:
            raise ApiError(
                "asset-not-found",
                f"{view.session.task_id} has no asset {key!r}.",
                "GET sota_factor_anchor names the keys; asset_bytes?key=manifest.json lists the bundle's files.",
            )
        return asset

    async def find_bundle(self, task_id: str, stage: Stage | None, *, replay: bool) -> Asset:
        """A run's bundle as a zip file; see `export_bundle`.

        Args:
            task_id: The run.
            stage: The factors' if the run accepted any, else the models', when not given.
            replay: With its evidence.
        """
        view = await self.find(task_id)
        stages = bundle_stages(view.session)
        chosen = stage or (stages[0] if stages else "factor")
        return await self._bundles.get_zip(BundleRequest(view, chosen, replay))

    async def _find_latest(self) -> RunView:
        for task in await asyncio.to_thread(self._tasks.list):
            try:
                view = await self._views.get(task)
            except SotaError as error:
                if error.slug == "snapshot-altered":
                    # It may be the newest accepted run: an older one in its place is not what was asked for.
                    raise
                continue
            if view.sota is not None:
                return view
        raise ApiError(
            "no-accepted-run",
            "No run on this server has accepted a factor experiment of its own.",
            "GET /tasks lists the runs.",
        )

    async def _describe(self, task: Task) -> TaskItem:
        try:
            if task.task_id == LATEST:
                raise _reserved(task)
            view = await self._views.get(task)
        except SotaError as error:
            first = error.problems[0]
            return TaskItem(
                task_id=task.task_id,
                updated_at_utc=describe_time(await asyncio.to_thread(last_written, task.log)),
                kind=None,
                loops=0,
                has_sota=False,
                problem=ProblemItem(slug=first.slug, message=first.message, hint=first.hint),
            )
        return TaskItem(
            task_id=task.task_id,
            updated_at_utc=describe_time(view.updated),
            kind=run_kind(view.session),
            loops=len(view.session.experiments),
            has_sota=view.sota is not None,
            problem=None,
        )


def _reserved(task: Task) -> ApiError:
    return ApiError(
        "task-id-reserved",
        f"A log folder is called {task.task_id!r}, and that id means the newest run with accepted factors.",
        "Rename the folder, and its run can be asked for.",
    )


_BUNDLE_KEYS = (
    MANIFEST_NAME,
    ORDER_NAME,
    FACTORS_NAME,
    META_NAME,
    CONFIG_NAME,
    REPORT_NAME,
    BOOSTER_NAME,
    TENSORS_NAME,
    CODE_NAME,
    f"{FACTOR_FOLDER}/",
    f"{REPLAY_FOLDER}/",
)


def _may_be_in_bundle(key: str) -> bool:
    """Whether a key could be the path of a bundle's file, so that it is worth making the bundle to look."""
    return key not in WEIGHT_KEYS and is_inside(key) and key.startswith(_BUNDLE_KEYS)

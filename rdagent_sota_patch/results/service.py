"""What the routes ask: runs, the newest accepted one, and their assets."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
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
    WEIGHTS_NAME,
    FactorOrder,
    ModelMeta,
)
from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.results.bundles import Bundles, Figures
from rdagent_sota_patch.results.checkout_answers import (
    AlignedFactors,
    AlignmentPreview,
    AlphaMeta,
    CompleteAssets,
    Parts,
    ProvenInput,
    align_factors,
    describe_alpha,
    gather_parts,
    list_complete_assets,
    preview_alignment,
)
from rdagent_sota_patch.results.describing import (
    bundle_stages,
    describe_model_code,
    why_none,
)
from rdagent_sota_patch.results.disk_use import WorkspaceList, list_workspaces
from rdagent_sota_patch.results.exporter import BundleRequest, Exporter, FiguresRequest
from rdagent_sota_patch.results.factor_metrics import find_inputs, name_inputs
from rdagent_sota_patch.results.outlines import Outlines, sort_runs
from rdagent_sota_patch.results.schemas import ModelCode, TaskList
from rdagent_sota_patch.results.sota import ENTRY, WEIGHT_KEYS, Spool, in_words
from rdagent_sota_patch.results.tasks import LATEST, TaskFolder
from rdagent_sota_patch.results.views import RunView, Views
from rdagent_sota_patch.sessions.records import ExperimentKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rdagent_sota_patch.results.assets import Asset
    from rdagent_sota_patch.results.bundles import ServedBundle
    from rdagent_sota_patch.results.curves import Curves
    from rdagent_sota_patch.results.exporter import Stage
    from rdagent_sota_patch.results.outlines import RunOrder
    from rdagent_sota_patch.results.schemas import TaskItem, TaskSummary
    from rdagent_sota_patch.sessions.records import Session


_LISTING = 8
"""Lists that are waited for at a time; they are made one after the other."""
_FIGURES_BYTES = 1 << 30
"""Kilobytes each."""


@dataclass(frozen=True, slots=True)
class Folders:
    """What a server reads, and where it keeps what it made.

    Attributes:
        log_root: The folder that holds the runs' log folders.
        cache: A folder of the server's own.
        cache_bytes: How much of bundles it may hold, and how much of weights.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        qlib_dir: Qlib's data for the evidence of bundles; where the training had it, by default.
        data: Market data (a ``daily_pv.h5``, or its folder) for figures of single factors; the back-tests' labels,
            by default.
    """

    log_root: Path
    cache: Path
    cache_bytes: int = 20 << 30
    roots: tuple[Path, ...] = ()
    qlib_dir: Path | None = None
    data: Path | None = None


class Service:
    """Runs and their assets, as they are now."""

    def __init__(self, folders: Folders) -> None:
        """Look at the log root, and make the cache.

        Raises:
            ApiError: ``log-root-not-found``.
            SotaError: ``cannot-write``.
        """
        self._tasks = TaskFolder(folders.log_root)
        weights, bundles, figures = (folders.cache / name for name in ("weights", "bundles", "figures"))
        try:
            for folder in (weights, bundles, figures):
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
        # With an exporter of its own: neither kind waits for the other.
        self._figures = Figures(figures, _FIGURES_BYTES, Exporter(folders.roots, None))
        self._data = folders.data
        self._outlines = Outlines()
        self._listing = ThreadPoolExecutor(_LISTING, thread_name_prefix="listing")
        self._roots = folders.roots

    async def close(self) -> None:
        """End what is under way, such as an export; nothing can be asked afterwards."""
        self._outlines.close()
        self._listing.shutdown(wait=False, cancel_futures=True)
        self._views.close()
        await self._bundles.close()
        await self._figures.close()

    async def list_tasks(
        self,
        limit: int,
        offset: int,
        patience: float | None = None,
        order: RunOrder | None = None,
        *,
        reverse: bool = False,
    ) -> TaskList:
        """Some of the runs; one that cannot be read is listed with the reason.

        Args:
            limit: How many.
            offset: How many to pass over.
            patience: Seconds; a run that is not read by then is listed as such, and read all the same.
            order: By which column, for which all runs are read; the newest written first, when not given.
            reverse: The other way round.
        """
        tasks = await asyncio.to_thread(self._tasks.list)
        chosen = tasks if order is not None else tasks[offset : offset + limit]
        work = asyncio.get_running_loop().run_in_executor(self._listing, self._outlines.read, chosen)
        # Whoever went on without it does not ask how it ended.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([work], timeout=patience)
        items = work.result() if work.done() else await asyncio.to_thread(self._outlines.known, chosen)
        if order is not None:
            items = sort_runs(items, order, reverse=reverse)[offset : offset + limit]
        return TaskList(tasks=tuple(items), total=len(tasks), limit=limit, offset=offset)

    async def find(self, task_id: str, stage: Stage = "factor") -> RunView:
        """One run.

        Args:
            task_id: The run; ``latest`` is the newest that accepted an experiment of the stage.
            stage: Asked for.

        Raises:
            ApiError: ``task-not-found``, ``no-accepted-run``.
            SotaError: Its log cannot be read; see `read_session`.
        """
        if task_id == LATEST:
            return await self._find_latest(stage)
        task = self._tasks.recall(task_id)
        if task is None:
            task = await asyncio.to_thread(self._tasks.find, task_id)
        return await self._views.get(task)

    async def compare(self, task_ids: Iterable[str]) -> list[tuple[TaskItem, TaskSummary | None]]:
        """Rows of some runs, each with its summary; without one where it cannot be read.

        Raises:
            ApiError: ``task-not-found``.
        """
        tasks = [await asyncio.to_thread(self._tasks.find, task_id) for task_id in task_ids]
        rows = await asyncio.get_running_loop().run_in_executor(self._listing, self._outlines.read, tasks)
        summaries: list[TaskSummary | None] = []
        for row, task in zip(rows, tasks, strict=True):
            summaries.append(None if row.problem is not None else (await self._views.get(task)).summary)
        return list(zip(rows, summaries, strict=True))

    async def knows(self, task_id: str | None) -> bool:
        """Whether a run of that id is here."""
        if task_id is None:
            return False
        try:
            await asyncio.to_thread(self._tasks.find, task_id)
        except ApiError:
            return False
        return True

    async def find_backtest(self, view: RunView, loop: int | None) -> tuple[int, Curves | SotaError] | None:
        """The lines of a loop's back-test, or why there are none; None for a run without a back-test of its own.

        Args:
            view: The run.
            loop: Of it; the last accepted model's, the SOTA's or the newest with a result, if not given.

        Raises:
            ApiError: ``loop-not-found``.
        """
        chosen = _loop_to_show(view.session) if loop is None else loop
        if chosen is None:
            return None
        return chosen, await asyncio.to_thread(self._views.curves, view, chosen)

    async def find_asset(
        self, task_id: str, key: str, *, replay: bool, asked: str | None = None, stage: Stage = "factor"
    ) -> Asset:
        """Weights, factor code, or a file of the run's bundle.

        Args:
            task_id: The run.
            key: Of the asset.
            replay: For a file of the bundle: of the one with its evidence.
            asked: What the client called the asset, if otherwise.
            stage: Of the bundle; that of the models has no other keys than its files.

        Raises:
            ApiError: ``asset-not-found``, ``asset-not-available``.
            SotaError: The bundle cannot be exported.
        """
        view = await self.find(task_id, stage)
        asset = view.find_asset(key, asked) if stage == "factor" else None
        # Those of the factor stage are served from the log or the workspace.
        in_bundle = _may_be_in_bundle(key) or (stage == "model" and key == WEIGHTS_NAME)
        if asset is None and in_bundle and (stage == "model" or view.sota is not None):
            asset = (await self._bundles.get(BundleRequest(view, stage, replay))).find_asset(key)
        if asset is None:
            raise ApiError(
                "asset-not-found",
                f"{view.session.task_id} has no asset {asked or key!r}.",
                "GET sota_factor_anchor names the keys; asset_bytes?key=manifest.json lists the bundle's files.",
            )
        return asset

    async def find_listed(self, task_id: str, relpath: str) -> Asset:
        """An asset by the path that it has in a workspace or in a bundle: looked up, never opened as a path.

        Args:
            task_id: The run.
            relpath: ``factor_entry.py`` and ``factor.py`` are the SOTA's code; ``workspaces/<name>/`` before it is
                left out where that is the SOTA's workspace. Else a key of `find_asset`.

        Raises:
            ApiError: ``asset-not-found``, ``asset-not-available``.
            SotaError: The bundle cannot be exported.
        """
        view = await self.find(task_id)
        key = relpath.replace("\\", "/").lstrip("/")
        place = None if view.sota is None else view.sota.own.experiment.workspace
        if place is not None:
            key = key.removeprefix(f"workspaces/{place.name}/")
        key = ENTRY if key == "factor_entry.py" else key
        return await self.find_asset(task_id, key, replay=False, asked=relpath)

    async def anchor(self, task_id: str) -> Asset:
        """``/tasks/{task_id}/sota_factor_anchor``; it names ``model_meta.json`` where that can be had.

        Raises:
            SotaError: See `find`.
        """
        view = await self.find(task_id)
        found = await self._find_model(view)
        return await asyncio.to_thread(view.anchor_after, found if isinstance(found, str) else None)

    async def preview_alignment(self, task_id: str) -> AlignmentPreview:
        """``/tasks/{task_id}/v2_alignment_preview``; see `find` for what it raises."""
        return preview_alignment(await self._gather(await self.find(task_id)))

    async def list_complete_assets(self, task_id: str) -> CompleteAssets:
        """``/tasks/{task_id}/complete_assets``; see `find` for what it raises."""
        return list_complete_assets(await self._gather(await self.find(task_id)))

    async def align_factors(self, task_id: str) -> AlignedFactors:
        """``…/v2/{task_id}/aligned``; see `find` for what it raises."""
        return align_factors(await self._gather(await self.find(task_id)))

    async def describe_alpha(self) -> AlphaMeta:
        """``/alpha158/meta``; see `find` for what it raises."""
        return describe_alpha(await self._gather(await self.find(LATEST)))

    async def measure_factors(self, task_id: str, loop: int | None = None) -> Asset:
        """Figures of the factors of a loop, of the SOTA's without one, as `FactorMetrics` in JSON.

        Raises:
            ApiError: ``loop-not-found``.
            SotaError: There is no factor table, or no returns; see `measure_factors`.
        """
        view = await self.find(task_id)
        return await self._figures.get(await self._request_figures(view, loop))

    async def find_figures(self, view: RunView) -> Asset | None:
        """Those of the SOTA's factors, where they were computed already."""
        try:
            return await self._figures.find_made(await self._request_figures(view, None))
        except SotaError:
            return None

    async def _request_figures(self, view: RunView, loop: int | None) -> FiguresRequest:
        def find() -> FiguresRequest:
            inputs = find_inputs(view.session, loop, self._roots, self._data)
            return FiguresRequest(view, inputs, name_inputs(view.session, inputs))

        return await asyncio.to_thread(find)

    async def give_model_code(self, task_id: str, loop: int) -> ModelCode:
        """``/tasks/{task_id}/loops/{loop}/model_code``; see `find` and `describe_model_code` for what it raises."""
        return describe_model_code((await self.find(task_id)).session, loop)

    async def list_workspaces(self, task_id: str, *, quick: bool) -> WorkspaceList:
        """``/tasks/{task_id}/workspaces``; see `find` for what it raises."""
        view = await self.find(task_id)
        return await asyncio.to_thread(list_workspaces, view.session, self._roots, quick=quick)

    async def _gather(self, view: RunView) -> Parts:
        found = await self._find_model(view)
        if isinstance(found, str):
            proven = ProvenInput(None, None, found)
        else:
            proven = await asyncio.to_thread(_read_proven, found)
        return await asyncio.to_thread(gather_parts, view, proven, self._roots)

    async def _find_model(self, view: RunView) -> ServedBundle | str:
        """The bundle of the factors' model; in words, why there is none."""
        if view.sota is None:
            return why_none(view.session)
        if view.sota.recorder_error is not None:
            # An export would find the same, and take its time.
            return view.sota.recorder_error
        try:
            return await self._bundles.get(BundleRequest(view, "factor", False))
        except SotaError as error:
            return in_words(error)

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

    async def _find_latest(self, stage: Stage) -> RunView:
        for task in await asyncio.to_thread(self._tasks.list):
            try:
                view = await self._views.get(task)
            except SotaError as error:
                if error.slug == "snapshot-altered":
                    # It may be the newest accepted run: an older one in its place is not what was asked for.
                    raise
                continue
            if stage in bundle_stages(view.session):
                return view
        raise ApiError(
            "no-accepted-run",
            f"No run on this server has accepted a {stage} experiment of its own.",
            "GET /tasks lists the runs.",
        )


def _loop_to_show(session: Session) -> int | None:
    own = [each for each in session.experiments if each.inherited_from is None and each.metrics]
    accepted = [each for each in own if each.decision]
    models = [each for each in accepted if each.kind is ExperimentKind.MODEL]
    return next((found[-1].loop for found in (models, accepted, own) if found), None)


def _read_proven(bundle: ServedBundle) -> ProvenInput:
    order, meta = ((bundle.folder / name).read_bytes() for name in (ORDER_NAME, META_NAME))
    return ProvenInput(FactorOrder.model_validate_json(order), ModelMeta.model_validate_json(meta), None)


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

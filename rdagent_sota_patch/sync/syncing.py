"""Bring the model of a run's last accepted experiment into a folder: every byte as its hash says, or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME
from rdagent_sota_patch.bundle.folder import require_free
from rdagent_sota_patch.bundle.writing import to_json
from rdagent_sota_patch.errors import ApiError, Problem
from rdagent_sota_patch.sync.assembly import (
    Assembly,
    assemble,
    hold_staging,
    recover,
    require_room,
    staging_of,
)
from rdagent_sota_patch.sync.client import AnswerError
from rdagent_sota_patch.sync.downloading import ASSET_CHANGED, Origin, Patience, Wanted, download
from rdagent_sota_patch.sync.listing import parse_listing
from rdagent_sota_patch.sync.local import read_local

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.bundle.documents import FactorOrder, Manifest, ShippedFile
    from rdagent_sota_patch.bundle.notes_layout import Layout
    from rdagent_sota_patch.results.exporter import Stage
    from rdagent_sota_patch.results.schemas import SotaFactorAnchor, TaskManifest
    from rdagent_sota_patch.sync.client import ApiClient
    from rdagent_sota_patch.sync.companion import SyncManifest

Report = Callable[[str, int, int], None]
"""Told what is on its way, and how many of how many bytes are here."""

LATEST = "latest"
"""As a task id: the newest run with an accepted factor experiment of its own."""

_ATTEMPTS = 3
_NOT_FOUND, _PRECONDITION_FAILED = 404, 412


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What to sync.

    Attributes:
        task: The run's id, or ``latest``.
        target: The folder, which need not be there. An earlier sync is replaced by a newer one.
        layout: Whether what the notes' readers look for is written as well; of the factor stage alone.
        with_replay: Whether the evidence, which is back-test data, comes along.
        patience: With broken connections.
        stage: The factor stage's last accepted experiment, or the model stage's.
    """

    task: str
    target: Path
    layout: Layout = "bundle"
    with_replay: bool = False
    patience: Patience = field(default_factory=Patience)
    stage: Stage = "factor"


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What is in the folder now.

    Attributes:
        folder: The target, absolute.
        manifest: The bundle's.
        order: The model's inputs.
        companion: ``aistock_manifest.json``; None of the model stage, of which there is none.
        transferred: Names of the files that were fetched.
        received: Bytes that came for them; fewer than their sizes where an earlier sync was gone on with.
        changed: Whether anything in the folder is another than before.
    """

    folder: Path
    manifest: Manifest
    order: FactorOrder
    companion: SyncManifest | None
    transferred: tuple[str, ...]
    received: int
    changed: bool


class _MovedOnError(ApiError):
    """The run has something else now than when the anchor was asked for."""


def sync_task(client: ApiClient, options: SyncOptions, report: Report) -> SyncResult:
    """Make a folder what the server has of a run: a bundle that `predict` and `verify` take, and its companion.

    Files that are right already stay as they are, and what was transferred by a sync that was stopped is not
    transferred again. The folder changes at once, when everything is there, or not at all.

    Raises:
        ApiError: ``weights-not-factor-exp``; ``transfer-altered``, ``transfer-interrupted``; ``run-moved-on`` after
            three attempts; ``sync-in-use``; ``unusable-answer``, ``bundle-version``, ``no-replay``; what
            `ApiClient.anchor` raises.
        BundleError: ``target-exists``, ``target-not-a-bundle``.
        SotaError: ``cannot-write``.
    """
    # A name is needed for what lies beside it, and `..` has none.
    target = Path(os.path.abspath(options.target))  # noqa: PTH100 - resolve() would follow a link at the end
    attempt = 1
    while True:
        try:
            return _sync_once(client, options, target, report)
        except _MovedOnError as error:
            if attempt == _ATTEMPTS:
                raise ApiError(
                    "run-moved-on",
                    f"What {client.url} has of {options.task} changed {_ATTEMPTS} times while it was being synced, at "
                    f"last so: {error.problems[0].message}",
                    "Sync again in a while. If it stays so, the server's answers contradict each other.",
                ) from error
            attempt += 1


def _sync_once(client: ApiClient, options: SyncOptions, target: Path, report: Report) -> SyncResult:
    recover(target)
    local = read_local(target)
    require_free(target, force=True, known=local.known)
    report("anchor", 0, 0)
    anchor = _ask_anchor(client, options) if options.stage == "factor" else None
    with _noticing_changes():
        task = client.task(options.task if anchor is None else anchor.task_id, options.stage)
    if options.task not in {LATEST, task.task_id}:
        raise client.unusable(f"asked for {options.task!r}, it answers for {task.task_id!r}")
    if options.stage not in task.bundle_stages:
        raise _nothing_accepted(task, options.stage)
    report("bundle", 0, 0)
    with _noticing_changes():
        content = client.small_asset(
            task.task_id,
            MANIFEST_NAME,
            replay=options.with_replay,
            known=local.manifest_sha256,
            stage=options.stage,
        )
    if content is None:
        content = local.manifest
    if content is None:
        raise client.unusable(f"{MANIFEST_NAME} is said to be unchanged, and there is none here")
    manifest = parse_listing(content, task.task_id, replay=options.with_replay, stage=options.stage)
    if anchor is not None:
        _require_same_weights(anchor, manifest)
    local.require_synced(content)
    right = local.right(manifest.files)
    missing = {name: file for name, file in manifest.files.items() if name not in right}
    assembly = Assembly(target, options.layout, local, anchor, task, manifest, content, right)
    if not missing and local.manifest == content and local.layout == options.layout and local.is_whole():
        return _keep(assembly)
    with hold_staging(target) as staging:
        origin = Origin(client, task.task_id, options.with_replay, options.stage)
        with _noticing_changes():
            received = _bring(origin, missing, staging, options.patience, report)
        whole = assemble(assembly, staging)
    return SyncResult(
        target, whole.manifest, whole.order, whole.companion, tuple(missing), received, changed=True
    )


def _keep(assembly: Assembly) -> SyncResult:
    """Leave a folder that is right as it is, its companion aside where the anchor has something new to say."""
    target, local = assembly.target, assembly.local
    whole = assembly.describe(target)
    companion, known = whole.companion, local.companion
    same = companion is None or (known is not None and companion.says_the_same_as(known))
    if same:
        companion = known
    elif companion is not None:
        with replace_atomically(target / COMPANION_NAME) as temporary:
            temporary.write_bytes(to_json(companion))
    if staging_of(target).exists():
        # Of an earlier sync that was stopped.
        with hold_staging(target):
            pass
    return SyncResult(target, whole.manifest, whole.order, companion, (), 0, changed=not same)


def _bring(
    origin: Origin, missing: Mapping[str, ShippedFile], staging: Path, patience: Patience, report: Report
) -> int:
    """Fetch all files; how many bytes came over the network."""
    total = sum(file.size for file in missing.values())
    require_room(staging, total)
    done = received = 0
    for name, file in missing.items():
        here: int | None = None

        def progress(size: int, name: str = name, before: int = done) -> None:
            nonlocal here, received
            # What was here at the first call did not come now.
            received += 0 if here is None else max(0, size - here)
            here = size
            report(name, before + size, total)

        download(origin, Wanted(name, file.size, file.sha256), staging, progress, patience)
        done += file.size
    return received


def _ask_anchor(client: ApiClient, options: SyncOptions) -> SotaFactorAnchor:
    anchor = client.anchor(options.task)
    if options.task not in {LATEST, anchor.task_id}:
        raise client.unusable(f"asked for {options.task!r}, it answers for {anchor.task_id!r}")
    _require_weights(anchor)
    return anchor


def _nothing_accepted(task: TaskManifest, stage: Stage) -> ApiError:
    others = [each for each in task.bundle_stages if each != stage]
    return ApiError(
        "no-accepted-run",
        f"{task.task_id} has accepted no {stage} experiment of its own.",
        f"Sync its other stage: --stage {others[0]}."
        if others
        else "Name a run that has; /tasks lists them.",
    )


def _require_weights(anchor: SotaFactorAnchor) -> None:
    if (
        anchor.resolved_model_weight_source == "factor_exp"
        and anchor.resolved_model_weight_sha256 is not None
        and anchor.resolved_model_weight_key is not None
        and anchor.last_sota_factor_index is not None
    ):
        return
    reasons = (
        anchor.resolved_model_weight_source_error,
        anchor.resolved_model_weight_key_error,
        anchor.resolved_model_weight_sha256_error,
        anchor.last_sota_factor_index_error,
    )
    why = next((reason for reason in reasons if reason), "the server does not say why.")
    raise ApiError(
        "weights-not-factor-exp",
        f"{anchor.task_id} has no weights that are its last accepted factor experiment's own: {why}",
        "Nothing was written. Bring its workspace back on the server; or sync what fin_model won: --stage model.",
    )


def _require_same_weights(anchor: SotaFactorAnchor, manifest: Manifest) -> None:
    weights = manifest.files[str(manifest.primary_assets.model_weight_relpath)]
    if weights.sha256 != anchor.resolved_model_weight_sha256:
        raise _MovedOnError.of(
            [Problem("run-moved-on", "The bundle's weights are not those that the anchor names.")]
        )


@contextmanager
def _noticing_changes() -> Iterator[None]:
    """Tell an answer that was good a moment ago from one that is wrong."""
    try:
        yield
    except AnswerError as error:
        if error.status in {_NOT_FOUND, _PRECONDITION_FAILED} or error.slug == "run-moved-on":
            raise _MovedOnError.of(error.problems) from error
        raise
    except ApiError as error:
        if error.slug == ASSET_CHANGED:
            raise _MovedOnError.of(error.problems) from error
        raise

"""``aistock_manifest.json``: what a sync brought, under the names that its readers look for.

It lies beside a bundle's files and is not listed in the bundle's manifest, which the server wrote.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from rdagent_sota_patch.bundle.contents import read_bounded
from rdagent_sota_patch.bundle.documents import (
    COMPANION_NAME,
    MANIFEST_NAME,
    REPLAY_FOLDER,
    Document,
    FactorOrder,
    Manifest,
    PrimaryAssets,
    ShippedFile,
)
from rdagent_sota_patch.bundle.manifest import utc_now
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.results.schemas import BasedFactorEntry, Sha256

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.results.schemas import SotaFactorAnchor

SOURCE: Literal["aistock_task_sync_log_only"] = "aistock_task_sync_log_only"

_MOST_BYTES = 64 << 20


class SyncedSession(Document):
    """Which snapshot spoke for the run."""

    chosen_session_file: str
    source_session_dir_id: int | None
    hist_len: int


class SyncedSotaFactor(Document):
    """The last accepted factor experiment, as ``sota_factor_anchor`` gave it."""

    last_sota_factor_index: int
    factor_file_dict_keys: tuple[str, ...]
    resolved_factor_entry_key: str | None
    based_factor_entries: tuple[BasedFactorEntry, ...]


class TaskOnly(Document):
    """That the run was read from its log alone; ``factor_source`` and ``model_weight_source`` are as in the anchor."""

    mode: Literal["log_only"]
    session: SyncedSession
    sota_factor: SyncedSotaFactor
    workspace: None = None
    factor_source: str | None
    model_weight_source: Literal["factor_exp"]


class Skipped(Document):
    """What was left out, and why."""

    mode: Literal["skipped"]
    reason: str


class Synced(Document):
    """What was brought."""

    mode: Literal["synced"]


class SyncedOrder(Document):
    """Where the order of the model's input comes from, and how long it is."""

    mode: Literal["synced"]
    source: str
    factor_count: int
    alpha158_count: int
    dynamic_factor_count: int


class SyncedWeights(Document):
    """The weights."""

    key: str
    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class Diagnostics(Document):
    """How each part came about."""

    session: SyncedSession
    sota_factor: SyncedSotaFactor
    workspace: Skipped
    factor_order: SyncedOrder
    combined_factors: Skipped
    model_weight: SyncedWeights
    replay: Skipped | Synced


class SyncManifest(Document):
    """``aistock_manifest.json``.

    Attributes:
        task_id: The run's id, also where ``latest`` was asked for.
        task_run_id: The same.
        loop_id: RD-Agent's loop index of the experiment.
        generated_at_utc: When this was written.
        files: Size and SHA-256 of every file of the folder but this one, by relative POSIX path.
    """

    schema_version: Literal[1]
    task_id: str
    task_run_id: str
    loop_id: int
    generated_at_utc: str
    source: Literal["aistock_task_sync_log_only"]
    task_only: TaskOnly
    primary_assets: PrimaryAssets
    diagnostics: Diagnostics
    files: dict[str, ShippedFile]

    def says_the_same_as(self, other: SyncManifest) -> bool:
        """Whether the two differ in nothing but when they were written."""
        return self.model_copy(update={"generated_at_utc": other.generated_at_utc}) == other


def describe_sync(
    anchor: SotaFactorAnchor, manifest: Manifest, content: bytes, order: FactorOrder, factor_entry: str | None
) -> SyncManifest:
    """The companion of a bundle.

    Args:
        anchor: Of the run; its weights must be the factor experiment's own.
        manifest: The bundle's.
        content: The manifest's bytes.
        order: ``factor_order.json``.
        factor_entry: Relative path of the code that the anchor's entry key names.
    """
    key, index, source = (
        anchor.resolved_model_weight_key,
        anchor.last_sota_factor_index,
        anchor.resolved_model_weight_source,
    )
    weights = manifest.primary_assets.model_weight_relpath
    assert key is not None and index is not None and source is not None and weights is not None
    session = SyncedSession(
        chosen_session_file=anchor.chosen_session_file,
        source_session_dir_id=anchor.source_session_dir_id,
        hist_len=anchor.hist_len,
    )
    sota = SyncedSotaFactor(
        last_sota_factor_index=index,
        factor_file_dict_keys=anchor.factor_file_dict_keys or (),
        resolved_factor_entry_key=anchor.resolved_factor_entry_key,
        based_factor_entries=anchor.based_factor_entries or (),
    )
    own = ShippedFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return SyncManifest(
        schema_version=1,
        task_id=anchor.task_id,
        task_run_id=anchor.task_id,
        loop_id=manifest.loop,
        generated_at_utc=utc_now(),
        source=SOURCE,
        task_only=TaskOnly(
            mode="log_only",
            session=session,
            sota_factor=sota,
            factor_source=anchor.resolved_factor_entry_key,
            model_weight_source=source,
        ),
        primary_assets=manifest.primary_assets.model_copy(update={"factor_entry_relpath": factor_entry}),
        diagnostics=Diagnostics(
            session=session,
            sota_factor=sota,
            workspace=Skipped(mode="skipped", reason="log_only"),
            factor_order=SyncedOrder(
                mode="synced",
                source=order.source_file,
                factor_count=len(order.factor_order),
                alpha158_count=order.alpha158_count,
                dynamic_factor_count=order.dynamic_factor_count,
            ),
            combined_factors=Skipped(mode="skipped", reason="backtest_artifact_not_synced"),
            model_weight=SyncedWeights(
                key=key, sha256=manifest.files[weights].sha256, size=manifest.files[weights].size
            ),
            replay=_describe_replay(manifest),
        ),
        files={MANIFEST_NAME: own, **manifest.files},
    )


def read_companion(folder: Path) -> SyncManifest | None:
    """The companion of a bundle's folder; None where there is none.

    Raises:
        BundleError: ``bundle-damaged``: it cannot be read.
    """
    path = folder / COMPANION_NAME
    try:
        content = read_bounded(path, _MOST_BYTES)
        if len(content) > _MOST_BYTES:
            raise _damaged(folder, "it is larger than any such file")
        return SyncManifest.model_validate_json(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(folder, error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(folder, f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}") from error


def require_companion(bundle: Bundle) -> bool:
    """Whether a sync wrote the bundle's folder; its companion must then be of this very bundle.

    Raises:
        BundleError: ``bundle-damaged``: the companion cannot be read, or is of another bundle.
    """
    companion = read_companion(bundle.folder)
    if companion is None:
        return False
    listed = {name: file for name, file in companion.files.items() if name != MANIFEST_NAME}
    if companion.task_id != bundle.manifest.task_id or listed != bundle.manifest.files:
        raise _damaged(bundle.folder, "it is of another bundle")
    return True


def has_evidence(manifest: Manifest) -> bool:
    """Whether a bundle brings back-test data to replay."""
    return any(name.startswith(f"{REPLAY_FOLDER}/") for name in manifest.files)


def _describe_replay(manifest: Manifest) -> Skipped | Synced:
    if has_evidence(manifest):
        return Synced(mode="synced")
    return Skipped(mode="skipped", reason="backtest_artifact_not_synced")


def _damaged(folder: Path, text: str) -> BundleError:
    return BundleError(
        "bundle-damaged",
        f"{folder}: {COMPANION_NAME} cannot be used: {text}.",
        "Sync again; the folder is made again where it is not what the server has.",
    )

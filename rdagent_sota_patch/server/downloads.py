"""What can be downloaded of a run, and why the rest cannot."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from rdagent_sota_patch.server.numbers import format_size

if TYPE_CHECKING:
    from rdagent_sota_patch.results.schemas import SotaFactorAnchor, TaskManifest

_ORDER_KEY = "factor_order.json"


@dataclass(frozen=True, slots=True)
class Download:
    """One button.

    Attributes:
        address: None where it cannot be had.
        note: What it is; or, without an address, why it cannot be had.
    """

    label: str
    address: str | None
    note: str


def list_downloads(manifest: TaskManifest, anchor: SotaFactorAnchor) -> list[Download]:
    """The buttons of a run, those that cannot be used among them with their reason; factors' code apart."""
    found = []
    if manifest.kind != "model" or "factor" in manifest.bundle_stages:
        found += _of_the_sota(manifest, anchor)
    if "model" in manifest.bundle_stages:
        found.append(
            Download(
                "Bundle of the model",
                f"{task_address(manifest.task_id)}/bundle?stage=model",
                "zip, with the evidence that it replays: the last accepted model, its features and their code",
            )
        )
    elif manifest.kind in ("model", "quant"):
        found.append(Download("Bundle of the model", None, "No model experiment was accepted."))
    return found


def _of_the_sota(manifest: TaskManifest, anchor: SotaFactorAnchor) -> list[Download]:
    task = task_address(manifest.task_id)
    no_weights = anchor.resolved_model_weight_key_error
    no_meta = anchor.resolved_model_meta_key_error
    no_bundle = (
        no_weights
        or no_meta
        or anchor.last_sota_factor_index_error
        or (None if "factor" in manifest.bundle_stages else "No factor experiment was accepted.")
    )
    weights, meta = anchor.resolved_model_weight_key, anchor.resolved_model_meta_key
    sizes = {asset.key: format_size(asset.size) for asset in manifest.assets}
    order = None if meta is None else _ORDER_KEY
    return [
        _either("Bundle", f"{task}/bundle?stage=factor", "zip, with the evidence that it replays", no_bundle),
        _either(
            "Bundle without evidence",
            f"{task}/bundle?stage=factor&replay=false",
            "zip, without data of the back-test",
            no_bundle,
        ),
        _either(
            weights or "model.pkl",
            weights and asset_address(manifest.task_id, weights),
            f"weights of the model, {sizes.get(weights or '', 'a pickle')}",
            no_weights,
        ),
        _either(
            _ORDER_KEY,
            order and asset_address(manifest.task_id, order),
            "the features in their order",
            no_meta,
        ),
        _either(
            meta or "model_meta.json",
            meta and asset_address(manifest.task_id, meta),
            "what the weights need to be used",
            no_meta,
        ),
    ]


def _either(label: str, address: str | None, note: str, error: str | None) -> Download:
    if error is None and address is not None:
        return Download(label, address, note)
    return Download(label, None, error or "Not available.")


def task_address(task_id: str) -> str:
    """Path of a run's answers."""
    return f"/tasks/{quote(task_id, safe='')}"


def page_address(task_id: str) -> str:
    """Path of a run's page."""
    return f"/runs/{quote(task_id, safe='')}"


def asset_address(task_id: str, key: str) -> str:
    """Path and query of one asset."""
    return f"{task_address(task_id)}/asset_bytes?key={quote(key, safe='')}"


def sync_command(task_id: str, address: str | None) -> str:
    """The command that fetches a run; without an address, ``ADDRESS`` is for the reader to fill in."""
    api = "ADDRESS" if address is None else shlex.quote(address)
    return f"rdagent-sota sync --api {api} --task {shlex.quote(task_id)} --out DIR"

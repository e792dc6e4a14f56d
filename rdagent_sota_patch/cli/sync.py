"""``rdagent-sota sync``: bring what a run produced from a results API into a folder."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from rdagent_sota_patch.cli.output import clean, err, out, print_json
from rdagent_sota_patch.server.access import read_token
from rdagent_sota_patch.sync.client import ApiClient
from rdagent_sota_patch.sync.companion import has_evidence
from rdagent_sota_patch.sync.syncing import LATEST, SyncOptions, sync_task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.sync.syncing import Report, SyncResult

_MIB = 1 << 20
_WAITING = {"anchor": "asking what the run has", "bundle": "waiting for the server's bundle"}


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """What ``sync`` was asked for.

    Attributes:
        url: Of the API.
        token_file: Holds the token that the server wants, if it wants one.
    """

    url: str
    token_file: Path | None
    options: SyncOptions


def run_sync(request: SyncRequest, as_json: bool) -> None:
    """Sync, and print what is in the folder now."""
    token = None if request.token_file is None else read_token(request.token_file).decode("ascii")
    with ApiClient(request.url, token=token) as client, _show_report(quiet=as_json) as report:
        result = sync_task(client, request.options, report)
    if as_json:
        print_json(_to_plain(result))
    else:
        _show(result, request.options)


@contextmanager
def _show_report(*, quiet: bool) -> Iterator[Report]:
    """A progress bar on stderr over the bytes of all files; none where only JSON is wanted."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=quiet) as progress:
        task = progress.add_task("asking", total=None)

        def report(name: str, done: int, total: int) -> None:
            known = total if total else None
            progress.update(task, description=_WAITING.get(name, clean(name)), completed=done, total=known)

        yield report


def _to_plain(result: SyncResult) -> dict[str, Any]:
    manifest, companion = result.manifest, result.companion
    return {
        "path": str(result.folder),
        "task_id": manifest.task_id,
        "stage": manifest.stage,
        "loop": manifest.loop,
        "changed": result.changed,
        "transferred": list(result.transferred),
        "bytes_received": result.received,
        "files": len(manifest.files),
        "bytes": sum(file.size for file in manifest.files.values()),
        "with_replay": has_evidence(manifest),
        "aistock_manifest": None if companion is None else companion.model_dump(mode="json"),
    }


def _show(result: SyncResult, options: SyncOptions) -> None:
    manifest, order = result.manifest, result.order
    latest = f" ({LATEST})" if options.task == LATEST else ""
    size = sum(file.size for file in manifest.files.values()) / _MIB
    out.print(
        Text.assemble(
            (clean(manifest.task_id), "bold"),
            f"{latest}, loop {manifest.loop} → {clean(result.folder)}  ",
            f"({len(manifest.files)} files, {size:.1f} MiB, all as the server's manifest says)",
        ),
        soft_wrap=True,
    )
    weights = manifest.files[str(manifest.primary_assets.model_weight_relpath)]
    whose = "the factor experiment itself" if manifest.stage == "factor" else "the accepted model"
    out.print(
        f"{len(order.factor_order)} features: {order.dynamic_factor_count} mined, {order.alpha158_count} Alpha; "
        f"weights {weights.sha256[:12]}… of {whose}",
        highlight=False,
        soft_wrap=True,
    )
    if result.transferred:
        kept = len(manifest.files) - len(result.transferred)
        made = "were made of them, or were" if options.layout == "notes" else "were"
        stayed = f"; {kept} {made} right already" if kept else ""
        out.print(
            f"Transferred: {len(result.transferred)} files, {result.received / _MIB:.1f} MiB{stayed}.",
            highlight=False,
        )
    elif result.changed:
        out.print("No file had to be transferred; what is said about them was written again.")
    else:
        out.print("Nothing was new: every file stays as it was.", style="green")
    if not has_evidence(manifest):
        out.print(
            "Without its evidence, which is back-test data: --with-replay brings it, and `rdagent-sota verify` "
            "then replays the scores.",
            style="dim",
            highlight=False,
            soft_wrap=True,
        )

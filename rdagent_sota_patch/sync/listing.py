"""What a served bundle's manifest lists, judged before anything of it is asked for or written."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pydantic_core
from pydantic import ValidationError

from rdagent_sota_patch.bundle.contents import is_inside
from rdagent_sota_patch.bundle.documents import (
    COMPANION_NAME,
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    ORDER_NAME,
    PREDICTIONS_NAME,
    REPLAY_NAME,
    SCHEMA_VERSION,
    SERVED_FOLDER,
    SIGNATURE_NAME,
    SLICE_NAME,
    Manifest,
)
from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.sync.companion import has_evidence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rdagent_sota_patch.bundle.documents import ShippedFile
    from rdagent_sota_patch.results.exporter import Stage

MOST_FILES = 10_000
MOST_BYTES = 1 << 40
"""Of all files together; a terabyte."""

_LONGEST_PART = 255
_LONGEST_NAME = 1024
_NEEDED = (META_NAME, ORDER_NAME, FACTORS_NAME)
_EVIDENCE = (REPLAY_NAME, SLICE_NAME, PREDICTIONS_NAME)
_RESERVED = frozenset({MANIFEST_NAME, SIGNATURE_NAME, COMPANION_NAME})


def parse_listing(content: bytes, task_id: str, *, replay: bool, stage: Stage = "factor") -> Manifest:
    """The manifest of a model's bundle whose every name may become a file.

    Args:
        content: ``manifest.json`` as it was served.
        task_id: The run that it must be of.
        replay: Whether evidence was asked for: then it must be there, and else not.
        stage: That it must be of.

    Raises:
        ApiError: ``unusable-answer``; ``bundle-version``; ``no-replay``.
    """
    manifest = _parse(content)
    wrong = next(_faults(manifest, task_id, replay=replay, stage=stage), None)
    if wrong is not None:
        raise _unusable(wrong)
    if replay and not all(name in manifest.files for name in _EVIDENCE):
        raise ApiError(
            "no-replay",
            f"The server's bundle of {task_id} brings no evidence to replay.",
            "Sync without --with-replay.",
        )
    return manifest


def _parse(content: bytes) -> Manifest:
    try:
        plain = pydantic_core.from_json(content)
    except ValueError as error:
        raise _unusable(f"it is not JSON: {error}") from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if version is not None and version != SCHEMA_VERSION:
        raise ApiError(
            "bundle-version",
            f"The server's bundle is of schema version {str(version)[:20]}, and this release reads {SCHEMA_VERSION}.",
            "Sync with the release of rdagent-sota-patch that the server runs.",
        )
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise _unusable(f"{where}: {first['msg']}") from error


def _faults(manifest: Manifest, task_id: str, *, replay: bool, stage: Stage) -> Iterator[str]:
    files = manifest.files
    if manifest.task_id != task_id:
        yield f"it is of {manifest.task_id!r} in place of {task_id!r}"
    if manifest.stage != stage or manifest.factors_only:
        yield "it is of no factor experiment's model" if stage == "factor" else "it is of no accepted model"
    if len(files) > MOST_FILES or sum(file.size for file in files.values()) > MOST_BYTES:
        yield f"it lists more than {MOST_FILES:,} files, or more than a terabyte"
    for name in files:
        if not _may_be_a_file(name):
            yield f"it lists {name[:_LONGEST_PART]!r}, which cannot be a file of a bundle"
    yield from _clashes(files)
    needed = [*_NEEDED, manifest.primary_assets.model_weight_relpath]
    for needed_name in needed:
        if needed_name is None or needed_name not in files:
            yield f"it does not list {needed_name or 'any weights'}"
    if not replay and has_evidence(manifest):
        yield "it lists back-test data, which was not asked for"


def _may_be_a_file(name: str) -> bool:
    return (
        is_inside(name)
        and name not in _RESERVED
        and not name.startswith(f"{SERVED_FOLDER}/")
        and name.isprintable()
        and len(name.encode("utf-8", "surrogatepass")) <= _LONGEST_NAME
        and all(len(part.encode("utf-8", "surrogatepass")) <= _LONGEST_PART for part in name.split("/"))
    )


def _clashes(files: Mapping[str, ShippedFile]) -> Iterator[str]:
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    # Some file systems take names for the same that differ in case alone.
    folded: dict[str, str] = {}
    for name in (*_RESERVED, *files):
        if name in folders:
            yield f"it lists {name!r} as a file and as a folder"
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            yield f"it lists {name!r} beside {other!r}"


def _unusable(text: str) -> ApiError:
    return ApiError(
        "unusable-answer",
        f"The manifest that the server sent cannot be used: {text}.",
        "Nothing was written. Do not use this server's bundle before you know why.",
    )

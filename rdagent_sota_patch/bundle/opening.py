"""A bundle's documents, parsed, its files checked, and whether the documents tell the same story."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import pydantic_core
from pydantic import ValidationError

from rdagent_sota_patch.bundle.contents import GET_ANEW, check_files, read_bounded, read_listed
from rdagent_sota_patch.bundle.documents import (
    COMPANION_NAME,
    FACTORS_NAME,
    MANIFEST_NAME,
    META_NAME,
    ORDER_NAME,
    SCHEMA_VERSION,
    SIGNATURE_NAME,
    Document,
    FactorOrder,
    Manifest,
    ModelMeta,
    ShippedFactors,
)
from rdagent_sota_patch.bundle.signing import check_signature
from rdagent_sota_patch.errors import BundleError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import ShippedFactor


def find_contradictions(
    manifest: Manifest, order: FactorOrder | None, meta: ModelMeta | None, factors: ShippedFactors
) -> Iterator[str]:
    """What in the documents cannot be true together, a sentence without its full stop each."""
    for name in (MANIFEST_NAME, SIGNATURE_NAME, COMPANION_NAME):
        if name in manifest.files:
            yield f"the manifest lists {name}, which it cannot know"
    yield from _unlisted(manifest, "manifest.json", list(manifest.primary_assets.model_dump().values()))
    yield from _unlisted(manifest, "sota_factors.json", [factor.code_relpath for factor in factors.factors])
    for factor in factors.factors:
        if (factor.code_relpath is None) == (factor.missing_reason is None):
            yield f"sota_factors.json must give either code or the reason why it is missing for {factor.name!r}"
        elif factor.code is not None and not _is_code(factor, manifest):
            yield f"the code of {factor.name!r} in sota_factors.json is not that of {factor.code_relpath}"
    if meta is not None:
        yield from _check_meta(manifest, meta)
    if meta is not None and order is not None:
        yield from _check_features(order, meta, factors)


def _is_code(factor: ShippedFactor, manifest: Manifest) -> bool:
    file = manifest.files.get(factor.code_relpath or "")
    own = hashlib.sha256((factor.code or "").encode("utf-8", "surrogatepass")).hexdigest()
    return file is not None and file.sha256 == own


def _unlisted(manifest: Manifest, where: str, paths: Iterable[str | None]) -> Iterator[str]:
    for path in paths:
        if path is not None and path not in manifest.files:
            yield f"{where} names {path!r}, which the manifest does not list"


def _check_meta(manifest: Manifest, meta: ModelMeta) -> Iterator[str]:
    weights = meta.weights
    needed = {
        "lightgbm": [weights.booster_relpath],
        "torch": [weights.tensors_relpath, weights.code_relpath],
        "other": [],
    }[meta.kind]
    if None in needed:
        yield f"model_meta.json describes a {meta.kind} model and does not name its weights"
    paths = [weights.pickle_relpath, weights.booster_relpath, weights.tensors_relpath, weights.code_relpath]
    yield from _unlisted(manifest, "model_meta.json", paths)
    if meta.step_len is not None and meta.step_len < 1:
        yield f"model_meta.json gives a step_len of {meta.step_len} days"


def _check_features(order: FactorOrder, meta: ModelMeta, factors: ShippedFactors) -> Iterator[str]:
    mined = set(order.dynamic_factor_order)
    alpha = [name for name in order.factor_order if name not in mined]
    if [feature.name for feature in meta.alpha] != alpha:
        yield "the Alpha features of model_meta.json are not those of factor_order.json, in its order"
    undescribed = mined - {factor.name for factor in factors.factors if factor.in_table}
    if undescribed:
        yield f"sota_factors.json lacks mined factors of factor_order.json: {', '.join(sorted(undescribed))}"
    known = set(order.factor_order)
    for processor in meta.processors:
        columns = processor.columns or ()
        if not set(columns) <= known or len(set(columns)) != len(columns):
            yield f"the columns of {processor.name} in model_meta.json are not features of factor_order.json"
        for numbers in (processor.mean, processor.std):
            if numbers is not None and len(numbers) != len(columns):
                yield f"{processor.name} in model_meta.json has {len(numbers)} numbers for {len(columns)} columns"


D = TypeVar("D", bound=Document)

# Far above any real one; below what would hurt.
_MAX_DOCUMENT_BYTES = 64 << 20
_SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose documents were read, and whose files were as the manifest says.

    Attributes:
        folder: Where it is.
        manifest: ``manifest.json``.
        order: ``factor_order.json``; None in a bundle of factors alone.
        meta: ``model_meta.json``; None in a bundle of factors alone.
        factors: ``sota_factors.json``.
        signed: Whether the manifest bears a signature by the key that `open_bundle` was given.
    """

    folder: Path
    manifest: Manifest
    order: FactorOrder | None
    meta: ModelMeta | None
    factors: ShippedFactors
    signed: bool

    @property
    def model(self) -> tuple[FactorOrder, ModelMeta]:
        """The model's input order and description.

        Raises:
            BundleError: ``bundle-without-model`` for a bundle of factors alone.
        """
        if self.order is None or self.meta is None:
            raise BundleError(
                "bundle-without-model",
                f"{self.folder} holds factors alone, and no model to score with.",
                "Export a run whose weights are still there, without --factors-only.",
            )
        return self.order, self.meta

    def read(self, relpath: str) -> bytes:
        """The bytes of one listed file, checked by its SHA-256 again: it may have changed since the bundle was opened.

        Raises:
            BundleError: ``bundle-altered``.
        """
        return read_listed(self.folder, relpath, self.manifest.files)


def open_bundle(folder: Path, *, key: bytes | None = None, replay: bool = True) -> Bundle:
    """Read a bundle's documents and check every file's size and SHA-256. Runs and unpickles nothing.

    Args:
        folder: The bundle.
        key: The key that the manifest must be signed with; without one, a signature is not looked at.
        replay: Whether the evidence in ``replay/`` is checked, too. Off, that folder is neither listed nor opened:
            live selection uses no back-test data.

    Raises:
        BundleError: ``not-a-bundle``, ``bundle-version``, ``bundle-not-signed``, ``signature-wrong``;
            ``bundle-altered`` for every missing, changed or additional file; ``bundle-damaged`` for documents that
            cannot be parsed or contradict each other.
    """
    content = _read_manifest(folder)
    if key is not None:
        check_signature(folder, content, key)
    manifest = _parse_manifest(folder, content)
    problems = check_files(folder, manifest.files, replay=replay)
    if problems:
        raise BundleError.of(problems)
    order = None if manifest.factors_only else _parse(folder, manifest, ORDER_NAME, FactorOrder)
    meta = None if manifest.factors_only else _parse(folder, manifest, META_NAME, ModelMeta)
    factors = _parse(folder, manifest, FACTORS_NAME, ShippedFactors)
    problems = [_damaged(folder, text) for text in find_contradictions(manifest, order, meta, factors)]
    if problems:
        raise BundleError.of(problems)
    return Bundle(folder, manifest, order, meta, factors, signed=key is not None)


def _read_manifest(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    hint = "Name the folder that `rdagent-sota export` wrote."
    try:
        content = read_bounded(path, _MAX_DOCUMENT_BYTES)
    except FileNotFoundError:
        state = f"has no {MANIFEST_NAME}" if folder.is_dir() else "does not exist, or is not a folder"
        raise BundleError("not-a-bundle", f"{folder} is not a bundle: it {state}.", hint) from None
    except OSError as error:
        raise BundleError("not-a-bundle", f"Cannot read {path}: {error.strerror or error}.", hint) from error
    if len(content) > _MAX_DOCUMENT_BYTES:
        raise BundleError("not-a-bundle", f"{path} is larger than any manifest.", hint)
    return content


def _parse_manifest(folder: Path, content: bytes) -> Manifest:
    try:
        plain = pydantic_core.from_json(content)
    except ValueError as error:
        raise BundleError.of([_damaged(folder, f"{MANIFEST_NAME} is not JSON: {error}")]) from error
    if not isinstance(plain, dict):
        raise BundleError.of([_damaged(folder, f"{MANIFEST_NAME} holds no object")])
    # Before the rest is parsed: another version's fields would look like damage.
    version = plain.get("schema_version")
    if "schema_version" in plain and version != SCHEMA_VERSION:
        raise BundleError(
            "bundle-version",
            f"{folder} is a bundle of schema version {version!r}, and this release reads {SCHEMA_VERSION}.",
            "Open it with the release of rdagent-sota-patch that wrote it, or export it again with this one.",
        )
    return _validate(folder, MANIFEST_NAME, content, Manifest)


def _parse(folder: Path, manifest: Manifest, name: str, document: type[D]) -> D:
    entry = manifest.files.get(name)
    if entry is not None and entry.size > _MAX_DOCUMENT_BYTES:
        raise BundleError.of([_damaged(folder, f"{name} is larger than any such document")])
    return _validate(folder, name, read_listed(folder, name, manifest.files), document)


def _validate(folder: Path, name: str, content: bytes, document: type[D]) -> D:
    try:
        return document.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        texts = [f"{'.'.join(map(str, item['loc'])) or 'document'}: {item['msg']}" for item in found]
        problems = [_damaged(folder, f"{name}: {text}") for text in texts[:_SHOWN_ERRORS]]
        raise BundleError.of(problems) from error


def _damaged(folder: Path, text: str) -> Problem:
    return Problem("bundle-damaged", f"{folder}: {text}.", GET_ANEW)

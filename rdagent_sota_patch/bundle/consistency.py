"""Whether a bundle's documents tell the same story: same features, same files, as many numbers as columns."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME, SIGNATURE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rdagent_sota_patch.bundle.documents import (
        FactorOrder,
        Manifest,
        ModelMeta,
        ShippedFactor,
        ShippedFactors,
    )


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

"""Answers in the fields that a results server of RD-Agent checkouts gives, for programs written against that one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from rdagent_sota_patch.bundle.documents import FactorOrder, ModelMeta
from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.export.choice import choose_experiment
from rdagent_sota_patch.export.shipped_factors import AcceptedFactor, list_factors
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.results.fields import Formula, HistLen, Metrics, TaskId, Text
from rdagent_sota_patch.results.schemas import Answer, Sha256
from rdagent_sota_patch.sessions.workspaces import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.results.sota import Sota
    from rdagent_sota_patch.results.views import RunView

Names = tuple[Text, ...]
Error = Annotated[Text | None, Field(description="Why it is not `ok`; null when it is.")]
Count = Annotated[int, Field(ge=0)]


class AlignmentPreview(Answer):
    """Whether SOTA factors and Alpha features are, together, what the weights were trained on."""

    ok: Annotated[bool, Field(description="Whether the model's input is known and proven.")]
    task_id: TaskId
    error: Error
    hist_len: HistLen
    last_sota_factor_index: Annotated[
        int | None, Field(description="Position of the last accepted factor experiment in the history.")
    ]
    sota_factors: Annotated[Names, Field(description="The mined factors, as the factor table has them.")]
    sota_factors_count: Annotated[Count, Field(description="How many.")]
    sota_source: Annotated[
        Literal["parquet_schema", "session"] | None,
        Field(description="The factor table's footer; or the session alone, where the table is gone."),
    ]
    alpha_factors: Annotated[
        Names,
        Field(description="The Alpha features of the input; a mined factor of the same name replaces one."),
    ]
    alpha_factors_count: Annotated[Count, Field(description="How many.")]
    alpha_source: Annotated[
        Literal["model_meta.json", "session"] | None,
        Field(description="The trained model's own loaders; or what the session says, where they are gone."),
    ]
    model_feature_count: Annotated[
        int | None, Field(description="Columns that the model was trained on; null where it is not known.")
    ]
    model_source: Annotated[
        Text | None,
        Field(description="What the number is taken from: the weights, compared with the fitted processors."),
    ]
    expected_total_features: Annotated[Count, Field(description="SOTA factors and Alpha features together.")]
    is_aligned: Annotated[bool, Field(description="Whether that is the number of the model's columns.")]
    factor_order: Annotated[
        Names,
        Field(
            description="The columns of the input in the order of training, which is not Alpha first and then mined; "
            "empty where it is not proven."
        ),
    ]
    has_model_weight: Annotated[bool, Field(description="Whether `asset_bytes` has the weights.")]
    has_model_meta: Annotated[bool, Field(description="Whether `asset_bytes` has `model_meta.json`.")]
    workspace_path: Annotated[
        Text | None, Field(description="The experiment's workspace on the server; null when it is gone.")
    ]


class SessionInfo(Answer):
    """Which snapshot speaks for the run."""

    source_session_dir_id: Annotated[int | None, Field(description="The folder below `__session__`.")]
    session_loop_id: Annotated[int | None, Field(description="The same.")]
    hist_len: HistLen
    last_sota_factor_loop_id: Annotated[
        int | None, Field(description="Position of the last accepted factor experiment in the history.")
    ]


class SotaNames(Answer):
    """The mined factors of the model."""

    count: Annotated[Count, Field(description="How many.")]
    factors: Annotated[Names, Field(description="As the factor table has them.")]


class FactorCode(Answer):
    """The code of one factor."""

    factor_name: Annotated[Text, Field(description="Its column in the factor table.")]
    code: Annotated[Text, Field(description="Text of its `factor.py`.")]
    loop_id: Annotated[int, Field(description="RD-Agent's loop index; -1 where it is not known.")]
    workspace_index: Annotated[Count, Field(description="Its place in this list.")]


class ModelWeight(Answer):
    """The weights that were trained in the last accepted factor experiment's back-test."""

    found: Annotated[bool, Field(description="Whether `asset_bytes` has them.")]
    source: Annotated[Literal["factor_exp"] | None, Field(description="That experiment, and no other.")]
    key: Annotated[Text | None, Field(description="What `asset_bytes` is asked for.")]
    file_name: Annotated[Text | None, Field(description="The same.")]
    file_path: Annotated[None, Field(description="Always null: files are asked for by key.")] = None
    size_bytes: Annotated[int | None, Field(description="Their size.")]
    sha256: Annotated[Sha256 | None, Field(description="Of their bytes.")]
    error: Error


class FeatureSequence(Answer):
    """The model's input."""

    alpha_baseline: Annotated[Names, Field(description="Its Alpha features.")]
    dynamic_factors: Annotated[Names, Field(description="Its mined factors, as the factor table has them.")]
    factor_order: Annotated[
        Names, Field(description="Both in the order of training; empty where it is not proven.")
    ]
    total_count: Annotated[Count, Field(description="Of both.")]
    source: Annotated[Text | None, Field(description="What says so.")]


class Validation(Answer):
    """Whether the parts belong together."""

    all_ok: Annotated[bool, Field(description="Whether they do, and all of them can be had.")]
    errors: Annotated[Names, Field(description="What is wrong.")]
    warnings: Annotated[Names, Field(description="What is worth knowing.")]
    sota_factor_count: Annotated[Count, Field(description="Mined factors of the model.")]
    factor_code_count: Annotated[Count, Field(description="How many of them have code.")]
    factor_alignment_ok: Annotated[bool, Field(description="Whether all have.")]
    factor_name_alignment_ok: Annotated[bool, Field(description="The same.")]
    model_weight_found: Annotated[bool, Field(description="Whether the weights can be had.")]
    model_weight_size: Annotated[Count, Field(description="Their size in bytes; 0 without.")]
    alpha_baseline_count: Annotated[Count, Field(description="Alpha features.")]
    dynamic_factors_count: Annotated[Count, Field(description="Mined factors.")]
    total_feature_count: Annotated[Count, Field(description="Of both.")]
    feature_sequence_ok: Annotated[bool, Field(description="Whether the input's order is proven.")]


class CompleteAssets(Answer):
    """What is needed to use a run's SOTA elsewhere: names, code, weights, the order of the input."""

    ok: Annotated[bool, Field(description="Whether nothing is missing: `validation.all_ok`.")]
    task_id: TaskId
    error: Error
    session_info: Annotated[SessionInfo, Field(description="Which snapshot was read.")]
    sota_factors: Annotated[SotaNames, Field(description="The mined factors.")]
    factor_codes: Annotated[
        tuple[FactorCode, ...], Field(description="Their code; what has none is missing here.")
    ]
    model_weight: Annotated[ModelWeight, Field(description="The weights.")]
    feature_sequence: Annotated[FeatureSequence, Field(description="The columns of the model's input.")]
    validation: Annotated[Validation, Field(description="Whether all of this belongs together.")]


class AlignedFactor(Answer):
    """One mined factor that the factor table has."""

    factor_name: Annotated[Text, Field(description="Its column in the factor table.")]
    original_name: Annotated[
        Text, Field(description="The same: columns are named as the session names them.")
    ]
    source_code: Annotated[Text | None, Field(description="Its code; null where the session has none.")]
    source_code_length: Annotated[Count, Field(description="Characters of it.")]
    source_from: Annotated[Text, Field(description="The loop that it is of, or why there is no code.")]
    factor_formulation: Formula
    factor_description: Annotated[Text, Field(description="What it measures, in words.")]
    variables: Annotated[dict[Text, Text], Field(description="Symbol to meaning.")]
    metrics: Metrics


class AlignedFactors(Answer):
    """The mined factors of the SOTA, with code and the metrics of the loop that each was accepted in."""

    task_id: TaskId
    success: Annotated[
        bool,
        Field(description="Whether the factor table is there to say which; else they are the session's."),
    ]
    aligned_factors: Annotated[dict[Text, AlignedFactor], Field(description="By name.")]
    factor_names: Annotated[Names, Field(description="In the factor table's order.")]
    factor_count: Annotated[Count, Field(description="How many.")]
    last_sota_hist_index: Annotated[
        int | None, Field(description="Position of the last accepted factor experiment in the history.")
    ]
    based_experiments_count: Annotated[Count, Field(description="Accepted factor experiments before it.")]
    error: Error


class AlphaItem(Answer):
    """One Alpha feature."""

    name: Annotated[Text, Field(description="Its column.")]
    expression: Annotated[Text, Field(description="Qlib's expression.")]
    source: Annotated[Literal["qlib_alpha158"], Field(description="Where its name comes from.")] = (
        "qlib_alpha158"
    )
    tags: Annotated[Names, Field(description="Always `alpha158`.")] = ("alpha158",)


class AlphaMeta(Answer):
    """The Alpha features of the newest run with an accepted factor experiment."""

    version: Annotated[Literal["v1"], Field(description="Of this form.")] = "v1"
    task_id: TaskId
    source: Annotated[
        Literal["model_meta.json", "session"],
        Field(description="The trained model's own loaders, or what the session says."),
    ]
    count: Annotated[Count, Field(description="How many.")]
    factors: Annotated[tuple[AlphaItem, ...], Field(description="In the model's order.")]


@dataclass(frozen=True, slots=True)
class ProvenInput:
    """What the bundle of a run says about its model's input.

    Attributes:
        error: Why there is no such bundle; the documents are None then.
    """

    order: FactorOrder | None
    meta: ModelMeta | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Parts:
    """All that these answers are put together from.

    Attributes:
        factors: Those that the model has, in the factor table's order; in the session's where that is gone.
        alpha: Alpha features, name to expression.
        proven: Whether order and model come from a bundle that could be made.
        workspace: Of the SOTA, on this machine.
    """

    view: RunView
    input: ProvenInput
    factors: tuple[AcceptedFactor, ...]
    sota_source: Literal["parquet_schema", "session"] | None
    alpha: dict[str, str]
    workspace: Path | None

    @property
    def names(self) -> Names:
        """Of the mined factors."""
        return tuple(factor.name for factor in self.factors)

    @property
    def order(self) -> Names:
        """The model's input; empty where it is not proven."""
        return () if self.input.order is None else self.input.order.factor_order


def gather_parts(view: RunView, proven: ProvenInput, roots: Sequence[Path]) -> Parts:
    """Read what a session and the footer of its factor table say beside the bundle."""
    session, sota = view.session, view.sota
    if sota is None:
        return Parts(view, proven, (), None, {}, None)
    own = sota.own.experiment
    workspace = None
    if own.workspace is not None:
        workspace, _ = find_workspace(own.workspace, session.log, roots, holding=TABLE_NAME)
    columns = None if workspace is None else _read_columns(workspace / TABLE_NAME)
    if proven.order is not None:
        columns = proven.order.dynamic_factor_order
    usable = {
        factor.name: factor
        for factor in list_factors(choose_experiment(session, "factor"), columns)
        if factor.in_table
    }
    factors = tuple(usable.values()) if columns is None else tuple(usable[name] for name in columns)
    alpha = {name: text for name, text in own.base_features.items() if name not in usable}
    if proven.meta is not None:
        alpha = {feature.name: feature.expression for feature in proven.meta.alpha}
    source: Literal["parquet_schema", "session"] = "session" if columns is None else "parquet_schema"
    return Parts(view, proven, factors, source, alpha, workspace)


def _read_columns(table: Path) -> Names | None:
    try:
        return read_names(table)
    except TableError:
        # Then there is no bundle either, and why not is told.
        return None


def preview_alignment(parts: Parts) -> AlignmentPreview:
    """``/tasks/{task_id}/v2_alignment_preview``."""
    session, sota, order = parts.view.session, parts.view.sota, parts.order
    meta = parts.input.meta
    total = len(parts.names) + len(parts.alpha)
    return AlignmentPreview(
        ok=parts.input.error is None,
        task_id=session.task_id,
        error=parts.input.error,
        hist_len=len(session.experiments),
        last_sota_factor_index=None if sota is None else sota.index,
        sota_factors=parts.names,
        sota_factors_count=len(parts.names),
        sota_source=parts.sota_source,
        alpha_factors=tuple(parts.alpha),
        alpha_factors_count=len(parts.alpha),
        alpha_source=None if not parts.alpha else "session" if meta is None else "model_meta.json",
        model_feature_count=len(order) if order else None,
        model_source=None if meta is None else f"fitted processors and {meta.kind} weights",
        expected_total_features=total,
        is_aligned=bool(order) and total == len(order),
        factor_order=order,
        has_model_weight=sota is not None and sota.weights.asset is not None,
        has_model_meta=meta is not None,
        workspace_path=None if parts.workspace is None else str(parts.workspace),
    )


def list_complete_assets(parts: Parts) -> CompleteAssets:
    """``/tasks/{task_id}/complete_assets``."""
    session, sota, order = parts.view.session, parts.view.sota, parts.order
    anchor = parts.view.session_anchor
    codes = tuple(
        FactorCode(factor_name=factor.name, code=factor.code, loop_id=factor.loop, workspace_index=number)
        for number, factor in enumerate(factor for factor in parts.factors if factor.code is not None)
        if factor.code is not None
    )
    weight = _describe_weight(sota, parts.input.error)
    validation = _validate(parts, len(codes), weight)
    return CompleteAssets(
        ok=validation.all_ok,
        task_id=session.task_id,
        error="; ".join(validation.errors) or None,
        session_info=SessionInfo(
            source_session_dir_id=anchor.source_session_dir_id,
            session_loop_id=anchor.source_session_dir_id,
            hist_len=anchor.hist_len,
            last_sota_factor_loop_id=anchor.last_accepted_factor_index,
        ),
        sota_factors=SotaNames(count=len(parts.names), factors=parts.names),
        factor_codes=codes,
        model_weight=weight,
        feature_sequence=FeatureSequence(
            alpha_baseline=tuple(parts.alpha),
            dynamic_factors=parts.names,
            factor_order=order,
            total_count=len(parts.alpha) + len(parts.names),
            source="factor_order.json" if order else parts.sota_source,
        ),
        validation=validation,
    )


def align_factors(parts: Parts) -> AlignedFactors:
    """``/api/extractors/sota_factors/v2/{task_id}/aligned``."""
    sota = parts.view.sota
    return AlignedFactors(
        task_id=parts.view.session.task_id,
        success=parts.sota_source == "parquet_schema",
        aligned_factors={factor.name: _align(factor) for factor in parts.factors},
        factor_names=parts.names,
        factor_count=len(parts.names),
        last_sota_hist_index=None if sota is None else sota.index,
        based_experiments_count=0 if sota is None else len(sota.experiments) - 1,
        error=None if parts.sota_source == "parquet_schema" else parts.input.error,
    )


def describe_alpha(parts: Parts) -> AlphaMeta:
    """``/alpha158/meta``."""
    return AlphaMeta(
        task_id=parts.view.session.task_id,
        source="session" if parts.input.meta is None else "model_meta.json",
        count=len(parts.alpha),
        factors=tuple(AlphaItem(name=name, expression=text) for name, text in parts.alpha.items()),
    )


def _describe_weight(sota: Sota | None, error: str | None) -> ModelWeight:
    weights = None if sota is None else sota.weights
    asset = None if weights is None else weights.asset
    return ModelWeight(
        found=asset is not None,
        source=None if asset is None else "factor_exp",
        key=None if asset is None else asset.key,
        file_name=None if asset is None else asset.key,
        size_bytes=None if asset is None else asset.size,
        sha256=None if asset is None else asset.sha256,
        error=error if weights is None else weights.error,
    )


def _validate(parts: Parts, codes: int, weight: ModelWeight) -> Validation:
    errors = [] if parts.input.error is None else [parts.input.error]
    if weight.error is not None and weight.error not in errors:
        errors.append(weight.error)
    errors += [
        f"{factor.name} has no code: {factor.missing}." for factor in parts.factors if factor.code is None
    ]
    warnings = [] if parts.alpha else ["The model has no Alpha features."]
    return Validation(
        all_ok=not errors,
        errors=tuple(errors),
        warnings=tuple(warnings) if parts.order else (),
        sota_factor_count=len(parts.names),
        factor_code_count=codes,
        factor_alignment_ok=codes == len(parts.names),
        factor_name_alignment_ok=codes == len(parts.names),
        model_weight_found=weight.found,
        model_weight_size=weight.size_bytes or 0,
        alpha_baseline_count=len(parts.alpha),
        dynamic_factors_count=len(parts.names),
        total_feature_count=len(parts.alpha) + len(parts.names),
        feature_sequence_ok=bool(parts.order),
    )


def _align(factor: AcceptedFactor) -> AlignedFactor:
    return AlignedFactor(
        factor_name=factor.name,
        original_name=factor.name,
        source_code=factor.code,
        source_code_length=len(factor.code or ""),
        source_from=factor.missing or f"loop {factor.loop}",
        factor_formulation=factor.formulation,
        factor_description=factor.description,
        variables=dict(factor.variables),
        metrics=dict(factor.metrics),
    )

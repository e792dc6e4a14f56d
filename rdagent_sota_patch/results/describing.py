"""A run's session as the API's answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.schemas import (
    ANNUALIZED_RETURN,
    MAX_DRAWDOWN,
    AssetItem,
    BasedFactorEntry,
    Best,
    FactorItem,
    GivenFactor,
    GivenItem,
    LoopItem,
    LoopList,
    ModelCode,
    ModelItem,
    Origin,
    ProblemItem,
    RunKind,
    SessionAnchor,
    SotaFactorAnchor,
    SotaItem,
    TaskItem,
    TaskManifest,
    TaskSummary,
)
from rdagent_sota_patch.sessions.locate import summarize
from rdagent_sota_patch.sessions.records import ExperimentKind

if TYPE_CHECKING:
    from rdagent_sota_patch.errors import SotaError
    from rdagent_sota_patch.results.assets import Asset
    from rdagent_sota_patch.results.sota import Sota
    from rdagent_sota_patch.sessions.records import ExperimentRecord, Factor, GivenFactors, Model, Session

_METRICS = ("IC", "ICIR", "Rank IC", ANNUALIZED_RETURN, MAX_DRAWDOWN)
"""The larger the better, drawdown included, which is negative."""

_KINDS: Mapping[str, RunKind] = {"FactorRDLoop": "factor", "ModelRDLoop": "model", "QuantRDLoop": "quant"}

_NO_ENTRY = "The session does not hold the code of any factor of the experiment that was implemented."

_LAST_MOMENT = 253402300799.0
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class RunOutline:
    """A run's row among others: what its own loops reached. See `TaskItem` for the fields."""

    kind: RunKind
    ended: datetime | None
    loops: int
    accepted: int
    rejected: int
    best: tuple[Best, ...]
    sota_loop: int | None
    sota_factors: int | None
    given_from: str | None
    given_factors: int | None


def outline_run(session: Session) -> RunOutline:
    """The figures of a run that the list, the summary and ``rdagent-sota runs`` show."""
    own = [each for each in session.experiments if each.inherited_from is None]
    accepted = [each for each in own if each.decision]
    sota = session.sota if session.sota is not None and session.sota.accepted_here else None
    given = session.given
    return RunOutline(
        kind=run_kind(session),
        ended=session.ended,
        loops=len(session.experiments),
        accepted=len(accepted),
        rejected=len(own) - len(accepted),
        best=tuple(filter(None, (_find_best(accepted, metric) for metric in _METRICS))),
        sota_loop=None if sota is None else sota.loop,
        sota_factors=None
        if sota is None
        else len(
            {each.name for record in (*sota.based_on, sota) for each in record.factors if each.implemented}
        ),
        given_from=None if given is None else given.source,
        given_factors=None if given is None else len(given.factors),
    )


def describe_row(task_id: str, outline: RunOutline, updated: float) -> TaskItem:
    """A run in the list."""
    return TaskItem(
        task_id=task_id,
        updated_at_utc=describe_time(updated),
        ended_at_utc=None if outline.ended is None else outline.ended.isoformat(timespec="milliseconds"),
        kind=outline.kind,
        loops=outline.loops,
        accepted=outline.accepted,
        best=outline.best,
        has_sota=outline.sota_loop is not None,
        sota_loop=outline.sota_loop,
        sota_factors=outline.sota_factors,
        given_from=outline.given_from,
        given_factors=outline.given_factors,
        problem=None,
    )


def describe_unreadable(task_id: str, error: SotaError, updated: float) -> TaskItem:
    """The row of a run that cannot be read."""
    first = error.problems[0]
    return TaskItem(
        task_id=task_id,
        updated_at_utc=describe_time(updated),
        kind=None,
        loops=0,
        has_sota=False,
        problem=ProblemItem(slug=first.slug, message=first.message, hint=first.hint),
    )


def describe_time(seconds: float) -> str:
    """A moment in ISO 8601, in UTC, to the millisecond."""
    # Some file systems keep times that no calendar has; such a time is wrong, whichever it is.
    possible = min(max(seconds, 0.0), _LAST_MOMENT)
    return datetime.fromtimestamp(possible, timezone.utc).isoformat(timespec="milliseconds")


def run_kind(session: Session) -> RunKind:
    """Which of RD-Agent's scenarios the run is, by the class of its loop."""
    return _KINDS.get(session.loop_class.rpartition(":")[2].rpartition(".")[2], "other")


def find_loop(session: Session, loop: int) -> ExperimentRecord:
    """The run's experiment of that loop index.

    Raises:
        ApiError: ``loop-not-found``.
    """
    found = [each for each in session.experiments if each.loop == loop]
    if not found:
        raise ApiError(
            "loop-not-found",
            f"{session.task_id} has no loop {loop}.",
            "GET /tasks/{task_id}/loops lists them; `loop` is RD-Agent's index.",
        )
    return found[-1]


def describe_model_code(session: Session, loop: int) -> ModelCode:
    """``/tasks/{task_id}/loops/{loop}/model_code``.

    Raises:
        ApiError: ``loop-not-found``; ``asset-not-available``: it is not a model's, or the session has no code of it.
    """
    record = find_loop(session, loop)
    code = None if record.model is None else record.model.code
    if code is None:
        what = (
            "proposed no model"
            if record.model is None
            else "proposed a model whose code the session does not hold"
        )
        raise ApiError(
            "asset-not-available", f"Loop {loop} of {session.task_id} {what}.", "See /loops for what it was."
        )
    return ModelCode(task_id=session.task_id, loop_id=loop, model_code=code)


def bundle_stages(session: Session) -> tuple[Literal["factor", "model"], ...]:
    """The stages of which the run accepted an experiment of its own, the factors' first."""
    accepted = {each.kind for each in session.experiments if each.accepted_here}
    stages: tuple[tuple[ExperimentKind, Literal["factor", "model"]], ...] = (
        (ExperimentKind.FACTOR, "factor"),
        (ExperimentKind.MODEL, "model"),
    )
    return tuple(name for kind, name in stages if kind in accepted)


def session_file(session: Session) -> str:
    """The snapshot that was read, relative to the log."""
    return session.snapshot.relative_to(session.log).as_posix()


def describe_manifest(session: Session, sota: Sota | None, updated: float) -> TaskManifest:
    """``/tasks/{task_id}``."""
    return TaskManifest(
        task_id=session.task_id,
        updated_at_utc=describe_time(updated),
        kind=run_kind(session),
        loop_class=session.loop_class,
        hist_len=len(session.experiments),
        has_sota=sota is not None,
        chosen_session_file=session_file(session),
        signature=session.signature.value,
        assets=() if sota is None else tuple(_list_assets(sota)),
        bundle_stages=bundle_stages(session),
    )


def describe_summary(session: Session, sota: Sota | None, updated: float) -> TaskSummary:
    """``/tasks/{task_id}/summary``."""
    outline = outline_run(session)
    models = session.accepted(ExperimentKind.MODEL)
    return TaskSummary(
        task_id=session.task_id,
        updated_at_utc=describe_time(updated),
        kind=outline.kind,
        hist_len=outline.loops,
        accepted=outline.accepted,
        rejected=outline.rejected,
        inherited=outline.loops - outline.accepted - outline.rejected,
        best=outline.best,
        given=_describe_given(session.given),
        sota=None if sota is None else _describe_sota(sota),
        last_accepted_model=_describe_loop(models[-1], sota) if models else None,
        skipped_snapshots=len(session.skipped),
    )


def describe_loops(session: Session, sota: Sota | None) -> LoopList:
    """``/tasks/{task_id}/loops``."""
    return LoopList(
        task_id=session.task_id, loops=tuple(_describe_loop(each, sota) for each in session.experiments)
    )


def describe_session(session: Session) -> SessionAnchor:
    """``/tasks/{task_id}/session_anchor``."""
    return SessionAnchor(
        task_id=session.task_id,
        chosen_session_file=session_file(session),
        source_session_dir_id=_session_folder(session),
        hist_len=len(session.experiments),
        loop_class=session.loop_class,
        signature=session.signature.value,
        last_accepted_factor_index=_last_accepted(session, ExperimentKind.FACTOR),
        last_accepted_model_index=_last_accepted(session, ExperimentKind.MODEL),
    )


def describe_anchor(session: Session, sota: Sota | None, bundle_error: str | None = None) -> SotaFactorAnchor:
    """``/tasks/{task_id}/sota_factor_anchor``: what can be given, and of the rest why not.

    Args:
        session: The run.
        sota: Of it.
        bundle_error: Why there is no bundle, and so no ``model_meta.json``, as far as that was tried.
    """
    folder = _session_folder(session)
    none = None if sota is not None else why_none(session)
    weights = sota.weights if sota is not None else None
    asset = weights.asset if weights is not None else None
    weights_error = weights.error if weights is not None else none
    meta_error = (sota.recorder_error or bundle_error) if sota is not None else none
    entry = sota.own.entry if sota is not None else None
    entry_error = _NO_ENTRY if sota is not None and entry is None else none
    folder_error = None if folder is not None else "The snapshot lies in no loop's folder."
    based = None if sota is None else tuple(_describe_based(sota))
    errors = [none, weights_error, meta_error, entry_error, folder_error]
    errors += [each.resolved_factor_entry_keys_error for each in based or ()]
    return SotaFactorAnchor(
        ok=not any(errors),
        task_id=session.task_id,
        chosen_session_file=session_file(session),
        source_session_dir_id=folder,
        source_session_dir_id_error=folder_error,
        hist_len=len(session.experiments),
        last_sota_factor_index=None if sota is None else sota.index,
        last_sota_factor_index_error=none,
        factor_file_dict_keys=None if sota is None else _own_keys(sota),
        factor_file_dict_keys_error=none,
        resolved_factor_entry_key=entry,
        resolved_factor_entry_key_error=entry_error,
        based_factor_entries=based,
        based_factor_entries_error=none,
        resolved_model_weight_key=None if asset is None else asset.key,
        resolved_model_weight_key_error=weights_error,
        resolved_model_weight_source=None if asset is None else "factor_exp",
        resolved_model_weight_source_error=weights_error,
        resolved_model_weight_sha256=None if asset is None else asset.sha256,
        resolved_model_weight_sha256_error=weights_error,
        resolved_model_meta_key=None if meta_error else "model_meta.json",
        resolved_model_meta_key_error=meta_error,
    )


def _list_assets(sota: Sota) -> list[AssetItem]:
    names = {
        key: factor.name
        for keyed in sota.experiments
        for factor, key in zip(keyed.experiment.factors, keyed.keys, strict=True)
        if key is not None
    }
    for keyed in sota.experiments:
        if keyed.entry is not None and keyed.entry not in names:
            names[keyed.entry] = next(
                each.name for each in keyed.experiment.factors if each.implemented and each.code is not None
            )
    found = [_item(asset, "factor_code", names[key]) for key, asset in sota.codes.items()]
    if sota.weights.asset is not None:
        found.insert(0, _item(sota.weights.asset, "model_weight", None))
    return found


def _item(asset: Asset, role: Literal["model_weight", "factor_code"], name: str | None) -> AssetItem:
    return AssetItem(key=asset.key, role=role, name=name, size=asset.size, sha256=asset.sha256)


def _describe_based(sota: Sota) -> list[BasedFactorEntry]:
    entries = []
    for number, keyed in enumerate(sota.experiments[:-1]):
        without = [
            factor.name
            for factor, key in zip(keyed.experiment.factors, keyed.keys, strict=True)
            if key is None and factor.implemented
        ]
        error = f"The session does not hold the code of {', '.join(without)}." if without else None
        entries.append(
            BasedFactorEntry(
                based_index=number,
                factors=tuple(factor.name for factor in keyed.experiment.factors),
                resolved_factor_entry_key=keyed.entry,
                resolved_factor_entry_key_error=None if keyed.entry is not None else _NO_ENTRY,
                resolved_factor_entry_keys=keyed.keys,
                resolved_factor_entry_keys_error=error,
            )
        )
    return entries


def _own_keys(sota: Sota) -> tuple[str, ...]:
    keys = [sota.own.entry, *sota.own.keys, sota.weights.asset.key if sota.weights.asset else None]
    return tuple(dict.fromkeys(key for key in keys if key is not None))


def why_none(session: Session) -> str:
    """Why a run has no SOTA of its own, in words."""
    if session.sota is not None and session.sota.inherited_from is not None:
        origin = session.sota.inherited_from["task_id"]
        return f"The run accepted no factor experiment of its own: its factors are those of {origin}."
    return f"The run accepted no factor experiment; it holds {summarize(session)}."


def _describe_sota(sota: Sota) -> SotaItem:
    own = sota.own.experiment
    return SotaItem(
        loop=own.loop,
        hypothesis=own.hypothesis,
        metrics=_finite(own.metrics),
        factors=tuple(
            _describe_factor(factor, key)
            for keyed in sota.experiments
            for factor, key in zip(keyed.experiment.factors, keyed.keys, strict=True)
        ),
    )


def _describe_loop(record: ExperimentRecord, sota: Sota | None) -> LoopItem:
    source = record.sota_source or {}
    origin = record.inherited_from
    is_last = sota is not None and record is sota.own.experiment
    keys = sota.own.keys if sota is not None and is_last else (None,) * len(record.factors)
    return LoopItem(
        loop=record.loop,
        kind=record.kind.value,
        decision=record.decision,
        is_last_sota=is_last,
        hypothesis=record.hypothesis,
        reason=record.reason,
        factors=tuple(
            _describe_factor(factor, key) for factor, key in zip(record.factors, keys, strict=True)
        ),
        model=None if record.model is None else _describe_model(record.model),
        metrics=_finite(record.metrics),
        sota_factor_count=_count(source.get("sota_factor_count")),
        num_features=_count(source.get("num_features")),
        inherited_from=None if origin is None else Origin(task_id=origin["task_id"], loop=origin["loop"]),
        given_from=None if (given := record.given) is None else given.source,
    )


def _describe_given(given: GivenFactors | None) -> GivenItem | None:
    if given is None:
        return None
    return GivenItem(
        source=given.source,
        kind=given.kind,
        task_id=given.task_id,
        loop=given.loop,
        factors=tuple(GivenFactor(name=name, loop=loop) for name, loop in given.factors),
    )


def _describe_factor(factor: Factor, key: str | None) -> FactorItem:
    return FactorItem(
        name=factor.name,
        description=factor.description,
        formulation=factor.formulation,
        variables=dict(factor.variables),
        implemented=factor.implemented,
        key=key,
    )


def _describe_model(model: Model) -> ModelItem:
    return ModelItem(
        name=model.name,
        model_type=model.model_type,
        description=model.description,
        formulation=model.formulation,
        architecture=model.architecture,
        hyperparameters=dict(model.hyperparameters),
        training_hyperparameters=dict(model.training_hyperparameters),
    )


def _find_best(accepted: list[ExperimentRecord], metric: str) -> Best | None:
    values = [(each.metrics[metric], each.loop) for each in accepted if metric in each.metrics]
    finite = [(value, loop) for value, loop in values if math.isfinite(value)]
    if not finite:
        return None
    value, loop = max(finite)
    return Best(metric=metric, value=value, loop=loop)


def _last_accepted(session: Session, kind: ExperimentKind) -> int | None:
    found = [
        index for index, each in enumerate(session.experiments) if each.kind is kind and each.accepted_here
    ]
    return found[-1] if found else None


def _session_folder(session: Session) -> int | None:
    name = session.snapshot.parent.name
    return int(name) if name.isdecimal() else None


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _finite(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers by name; what JSON cannot say becomes null."""
    return {
        str(name): float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
        for name, value in metrics.items()
    }

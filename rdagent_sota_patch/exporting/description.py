"""What a trained model is, as the bundle's documents: its input order, its configuration and its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    CODE_NAME,
    TENSORS_NAME,
    WEIGHTS_NAME,
    FactorOrder,
    ModelMeta,
    Weights,
)
from rdagent_sota_patch.bundle.manifest import utc_now
from rdagent_sota_patch.factors.reading import unreadable
from rdagent_sota_patch.factors.sources import TABLE_NAME
from rdagent_sota_patch.recorders.trained import trained_alpha, trained_columns, trained_importance

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.exporting.choice import Choice
    from rdagent_sota_patch.recorders.trained import TrainedModel


def describe_order(choice: Choice, trained: TrainedModel) -> FactorOrder:
    """``factor_order.json``: from fitted processors and the table's footer; what only data tells, was proven before.

    Raises:
        BundleError: ``model-input-mismatch``, ``input-order-unproven``.
    """
    columns = trained_columns(trained)
    alpha = len(columns) - len(trained.mined)
    return FactorOrder(
        version="v1",
        task_run_id=choice.session.task_id,
        loop_id=choice.experiment.loop,
        generated_at_utc=utc_now(),
        source_file=TABLE_NAME,
        factor_order=columns,
        alpha_count=alpha,
        alpha158_count=alpha,
        dynamic_factor_count=len(trained.mined),
        dynamic_factor_order=trained.mined,
        found="loader" if trained.unknown_loader is None else "proven",
        join=trained.join,
        tried=trained.tried,
    )


def describe_model(trained: TrainedModel, *, has_code: bool) -> ModelMeta:
    """``model_meta.json``.

    Args:
        trained: The model.
        has_code: Whether the bundle has a ``model.py``.

    Raises:
        BundleError: ``model-input-mismatch``.
    """
    return ModelMeta(
        schema_version=1,
        kind=trained.kind,
        model=trained.model,
        dataset=trained.dataset,
        handler=trained.handler,
        segments=trained.segments,
        step_len=trained.step_len,
        label=trained.label,
        alpha=trained_alpha(trained),
        instruments=trained.instruments,
        processors=trained.processors,
        weights=Weights(
            pickle_relpath=WEIGHTS_NAME,
            booster_relpath=BOOSTER_NAME if trained.booster_text is not None else None,
            tensors_relpath=TENSORS_NAME if trained.tensors is not None else None,
            code_relpath=CODE_NAME if has_code else None,
        ),
        feature_importance=trained_importance(trained),
    )


def has_gaps(table: Path) -> bool | None:
    """Whether any factor of a table lacks a value, by the footer's statistics; None where it does not say.

    RD-Agent drops incomplete rows from some tables, and so from what its models are trained on.

    Raises:
        TableError: ``table-unreadable``.
    """
    try:
        footer = pq.read_metadata(table)
    except (OSError, ValueError) as error:
        raise unreadable(table, error) from error
    known = True
    for group in map(footer.row_group, range(footer.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            statistics = column.statistics
            if statistics is None or not statistics.has_null_count:
                known = False
            elif statistics.null_count:
                return True
    return False if known else None

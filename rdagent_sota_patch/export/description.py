"""A trained model as the bundle's documents: order, description, model code, and extract_report.json."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

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
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.factor_table.reading import column_chunks, open_parquet
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.mlruns.trained import trained_alpha, trained_columns, trained_importance

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import ShippedFactors
    from rdagent_sota_patch.export.choice import Choice
    from rdagent_sota_patch.mlruns.trained import TrainedModel

_LARGEST = 4 << 20


def find_model_code(choice: Choice, workspace: Path) -> str:
    """Text of ``model.py``.

    Raises:
        BundleError: ``model-code-missing``, ``model-code-changed`` or ``artifact-unreadable``.
    """
    model = choice.experiment.model
    recorded = model.code if model is not None else None
    path = workspace / CODE_NAME
    present = _read(path)
    if recorded is None and present is None:
        raise BundleError(
            "model-code-missing",
            f"The code of this torch model is gone: {path} is not there, and the session does not hold it.",
            "Restore the workspace, or export the factors alone with --factors-only.",
        )
    if recorded is not None and present is not None and _lines(recorded) != _lines(present):
        raise BundleError(
            "model-code-changed",
            f"{path} is not the code that the session recorded for this model.",
            "It was changed since; put the recorded one back (rdagent-sota inspect LOG shows where the log is).",
        )
    return present if present is not None else str(recorded)


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if len(content) > _LARGEST:
        raise _unreadable(path, f"it has more than {_LARGEST >> 20} MB")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unreadable(path, f"it is not UTF-8 ({error.reason})") from None


def _lines(code: str) -> list[str]:
    # RD-Agent writes in text mode: on Windows with other line endings.
    return code.splitlines()


def _unreadable(path: Path, why: str) -> BundleError:
    return BundleError(
        "artifact-unreadable",
        f"{path} cannot be read: {why}.",
        "Restore the workspace from a backup, or run the experiment again.",
    )


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
        region=trained.region,
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
    known = True
    with open_parquet(table) as file:
        for leaf in range(len(file.schema)):
            for chunk in column_chunks(file, table, leaf):
                statistics = chunk.statistics
                if statistics is None or not statistics.has_null_count:
                    known = False
                elif statistics.null_count:
                    return True
    return False if known else None


_NOTES = {
    "factor": "The model is the one trained in the last accepted factor experiment's back-test.",
    "model": "The model is that of the last accepted model experiment.",
}
_FACTORS_ALONE = "The factors alone, without a model."


def describe_export(
    choice: Choice, target: Path, factors: ShippedFactors, trained: TrainedModel | None, files: Set[str]
) -> dict[str, Any]:
    """The report.

    Args:
        choice: What is shipped.
        target: The bundle's folder.
        factors: Its factors.
        trained: Its model; None for the factors alone.
        files: What was written, by relative path.
    """
    session = choice.session
    missing = [factor.name for factor in factors.factors if factor.code_relpath is None]
    place = session.snapshot.parent.name
    return {
        "extract_time": datetime.now().isoformat(),
        "task_log_path": str(session.log.absolute()),
        "output_dir": str(target.absolute()),
        "session_index": int(place) if place.isdecimal() else None,
        "status": "partial" if missing else "success",
        "note": _FACTORS_ALONE if trained is None else _NOTES[choice.stage],
        "summary": {
            "sota_factors_count": len(factors.factors),
            "factors_without_code": missing,
            "model_weight_exists": WEIGHTS_NAME in files,
            "model_code_exists": CODE_NAME in files,
            # In the bundle: back-test data is not shipped.
            "combined_factors_exists": False,
        },
    }


def finite(value: Any) -> Any:
    """Plain data as JSON can say it: NaN and infinities become null, what JSON has no form for becomes text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return str(value)

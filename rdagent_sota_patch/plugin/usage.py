"""The record of what a model was trained on: plain data on the experiment, ``sota_source.json`` in its workspace."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger

from rdagent_sota_patch import __version__
from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.mlruns.proof import prove_features

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rdagent_sota_patch.factor_table.combining import FeatureSet
    from rdagent_sota_patch.factor_table.segments import Segments
    from rdagent_sota_patch.plugin.active import ActiveSota

USAGE_NAME = "sota_source.json"
SCHEMA_VERSION = 1


def describe_source(sota: ActiveSota) -> dict[str, Any]:
    """Where the SOTA factors come from and what they are, in JSON's types."""
    source, table, session = sota.source, sota.table, sota.source.session
    return {
        "source": {
            "kind": source.kind.value,
            "path": str(source.path),
            "task_id": source.task_id,
            "snapshot": str(session.snapshot) if session else None,
            "loop": source.loop,
            "workspace": str(source.workspace) if source.workspace else None,
            "table": str(table.path),
            "rebuilt": source.table is None,
        },
        "fingerprint": table.fingerprint,
        "rows": table.rows,
        "start": table.start.isoformat(),
        "end": table.end.isoformat(),
        "instruments": table.instruments,
        "sota_factor_count": len(table.names),
        "factors": [asdict(origin) for origin in source.describe_factors(table.names)],
        "metrics": dict(source.metrics),
    }


def describe_segments(segments: Segments) -> dict[str, str | None]:
    """The run's dates, as ISO text by field name."""
    return {name: day and day.isoformat() for name, day in asdict(segments).items()}


def describe_usage(
    exp: Any, sota: ActiveSota, features: FeatureSet, alpha: Mapping[str, str]
) -> dict[str, Any]:
    """What ``exp`` is trained on, in JSON's types.

    Args:
        exp: The model experiment.
        sota: The SOTA factors in force.
        features: The features it is fed.
        alpha: The Alpha features among them, name to Qlib expression.
    """
    task = exp.sub_tasks[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"rdagent-sota-patch {__version__}",
        **describe_source(sota),
        "use_alpha_factors": sota.use_alpha,
        "alpha_factors": dict(alpha),
        "shared_names": list(features.shared),
        "num_features": features.count,
        "feature_order": list(features.order),
        "segments": describe_segments(sota.segments),
        "model": {
            "name": task.name,
            "model_type": task.model_type,
            "hyperparameters": task.hyperparameters,
            "training_hyperparameters": task.training_hyperparameters,
            "metrics": None,
        },
    }


def add_model_metrics(usage: Mapping[str, Any], result: Any) -> dict[str, Any]:
    """``usage`` with the metrics of the model's own back-test."""
    metrics = {str(name): float(value) for name, value in result.items()}
    return {**usage, "model": {**usage["model"], "metrics": metrics}}


def now() -> datetime:
    """The time, in MLflow's milliseconds; before a back-test it is the earliest that its run can end."""
    time = datetime.now(timezone.utc)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def prove_usage(usage: Mapping[str, Any], workspace: Path, since: datetime | None = None) -> dict[str, Any]:
    """``usage`` with what the back-test's own recorder says about the features that it names.

    Args:
        usage: With ``feature_order`` and ``alpha_factors`` of a model; or with ``table_factors`` alone, for a factor
            loop, whose Alpha features are its template's affair.
        workspace: Of the back-test.
        since: When it began; see `prove_features`.
    """
    features, alpha = usage.get("feature_order", usage.get("table_factors")), usage.get("alpha_factors")
    proof = prove_features(workspace, features or (), alpha, since)
    known = list(proof.columns)
    described = {
        "status": proof.status,
        "run_id": proof.run_id,
        "columns": known or None,
        "reason": proof.reason,
        "expected": proof.expected,
    }
    # The names are these; in which order the model has them, its loader alone knows.
    true = {"feature_order": known, "num_features": len(known)} if proof.status == "proven" and known else {}
    return {**usage, **true, "proof": described}


def require_proof(usage: Mapping[str, Any], workspace: Path, *, strict: bool) -> None:
    """Stop a run whose back-test was not made on the features that are recorded; tell about one that cannot be judged.

    Args:
        usage: From `prove_usage`.
        workspace: Of the back-test.
        strict: Whether a difference is an error, and what should have been readable and is not.

    Raises:
        HostError: ``features-differ`` or ``features-unproven``.
    """
    proof = usage["proof"]
    if proof["status"] == "proven":
        return
    if proof["status"] == "differs":
        error = HostError(
            "features-differ",
            f"The back-test in {workspace} was not made on the features that were asked for: {proof['reason']}.",
            "Something between the plugin and Qlib chose other features: a template or a runner that was changed. "
            "rdagent-sota doctor shows what a run asks for; SOTA_STRICT=false goes on and marks the loop.",
        )
    else:
        error = HostError(
            "features-unproven",
            f"Nobody can say on which features the back-test in {workspace} was made: {proof['reason']}",
            "The loop's sota_source.json says what was asked for, and nothing shows that it was used.",
        )
    if strict and (proof["status"] == "differs" or proof["expected"]):
        raise error
    logger.warning(str(error))


def write_usage(workspace: Path, usage: Mapping[str, Any]) -> None:
    """Write ``sota_source.json`` into an experiment's workspace.

    Not waited for: the session holds the same, and the disk is busy with the table.
    """
    text = json.dumps(usage, ensure_ascii=False, indent=2, default=str) + "\n"
    write_text_atomically(workspace / USAGE_NAME, text, durable=False)

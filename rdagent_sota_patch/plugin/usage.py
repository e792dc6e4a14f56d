"""The record of what a model was trained on: plain data on the experiment, ``sota_source.json`` in its workspace."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch import __version__
from rdagent_sota_patch.atomic import write_text_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rdagent_sota_patch.factors.features import FeatureSet
    from rdagent_sota_patch.factors.segments import Segments
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
            "task_id": session.task_id if session else None,
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


def write_usage(workspace: Path, usage: Mapping[str, Any]) -> None:
    """Write ``sota_source.json`` into an experiment's workspace.

    Not waited for: the session holds the same, and the disk is busy with the table.
    """
    text = json.dumps(usage, ensure_ascii=False, indent=2, default=str) + "\n"
    write_text_atomically(workspace / USAGE_NAME, text, durable=False)

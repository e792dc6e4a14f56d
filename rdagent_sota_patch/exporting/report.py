"""``extract_report.json``: a short report with the fields of the user's first extraction script."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.bundle.documents import CODE_NAME, WEIGHTS_NAME

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import ShippedFactors
    from rdagent_sota_patch.exporting.choice import Choice
    from rdagent_sota_patch.recorders.trained import TrainedModel

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

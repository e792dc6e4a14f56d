"""The process that makes one thing for the server: the order in JSON on stdin, problems in JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.export.export_run import ExportOptions, export_bundle
from rdagent_sota_patch.results.factor_metrics import Inputs, measure_factors
from rdagent_sota_patch.sessions.snapshots import read_session


def main() -> None:
    """Make what stdin asks for."""
    order = json.load(sys.stdin)
    problems = []
    # What Qlib and others print must not get between.
    report, sys.stdout = sys.stdout, sys.stderr
    try:
        _JOBS[order["job"]](order)
    except SotaError as error:
        problems = [
            {"slug": each.slug, "message": each.message, "hint": each.hint} for each in error.problems
        ]
    json.dump(problems, report)


def _export(order: dict[str, Any]) -> None:
    session = read_session(Path(order["snapshot"]))
    options = ExportOptions(
        stage=order["stage"],
        replay=order["replay"],
        roots=tuple(map(Path, order["roots"])),
        qlib_dir=_path(order["qlib_dir"]),
    )
    export_bundle(session, Path(order["target"]), options, lambda _: None)


def _measure(order: dict[str, Any]) -> None:
    session = read_session(Path(order["snapshot"]))
    experiment = [each for each in session.experiments if each.loop == order["loop"]][-1]
    inputs = Inputs(experiment, Path(order["table"]), _path(order["data"]))
    document = measure_factors(session.task_id, inputs, order["batch"])
    Path(order["target"]).write_text(document.model_dump_json(), encoding="utf-8")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


_JOBS = {"bundle": _export, "figures": _measure}

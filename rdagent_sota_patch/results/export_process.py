"""The process that exports one bundle for the server: the order in JSON on stdin, problems in JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.exporting.export import ExportOptions, export_bundle
from rdagent_sota_patch.sessions.snapshots import read_session


def main() -> None:
    """Export what stdin asks for."""
    order = json.load(sys.stdin)
    problems = []
    # What Qlib and others print must not get between.
    report, sys.stdout = sys.stdout, sys.stderr
    try:
        session = read_session(Path(order["snapshot"]))
        options = ExportOptions(
            stage=order["stage"],
            replay=order["replay"],
            roots=tuple(map(Path, order["roots"])),
            qlib_dir=None if order["qlib_dir"] is None else Path(order["qlib_dir"]),
        )
        export_bundle(session, Path(order["target"]), options, lambda _: None)
    except SotaError as error:
        problems = [
            {"slug": each.slug, "message": each.message, "hint": each.hint} for each in error.problems
        ]
    json.dump(problems, report)

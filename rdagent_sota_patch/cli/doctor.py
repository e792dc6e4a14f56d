"""``rdagent-sota doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from rdagent_sota_patch.cli.output import (
    EXIT_PROBLEM,
    clean,
    out,
    print_json,
    print_problems,
    problem_to_plain,
)
from rdagent_sota_patch.factor_table.combining import summarize
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin.diagnosis import Diagnosis, diagnose
from rdagent_sota_patch.sandbox.probe import what_confines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdagent_sota_patch.environment import Difference
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.plugin.traits import Traits


def run_doctor(as_json: bool, differences: tuple[Difference, ...] = ()) -> None:
    """Print the diagnosis; exit 1 if a run would be stopped.

    Args:
        as_json: As one JSON object.
        differences: Where environment and ``.env`` differed before the file was loaded.
    """
    diagnosis = diagnose(differences)
    if as_json:
        print_json(_to_plain(diagnosis))
    else:
        _show(diagnosis)
    if diagnosis.problems:
        raise typer.Exit(EXIT_PROBLEM)


def _to_plain(diagnosis: Diagnosis) -> dict[str, Any]:
    features = diagnosis.features
    return {
        "active": diagnosis.active is not None,
        "rdagent": diagnosis.rdagent,
        "source": _source_to_plain(diagnosis, diagnosis.source) if diagnosis.source else None,
        "alpha_factors": diagnosis.alpha,
        "num_features": features.count if features else 0,
        "accept_seeds": diagnosis.settings.sota_accept_seeds if diagnosis.settings else None,
        "host": _host_to_plain(diagnosis.traits) if diagnosis.traits else None,
        "settings": [
            {
                "name": difference.name,
                "environment": difference.environment,
                "env_file": difference.file,
                "in_force": "env_file" if difference.file_wins else "environment",
            }
            for difference in diagnosis.differences
        ],
        "problems": [problem_to_plain(problem) for problem in diagnosis.problems],
        "notices": [problem_to_plain(notice) for notice in diagnosis.notices],
    }


def _host_to_plain(traits: Traits) -> dict[str, Any]:
    return {
        "source": str(traits.host.folder),
        "returns": list(traits.returns_names),
        "signs_sessions": traits.signs_sessions,
        "factor_experiments": traits.factor_experiments,
        "feature_codes": traits.runs_feature_codes,
        "env_file_wins": traits.override,
        "reads_use_alpha_factors": traits.alpha_reading.place if traits.alpha_reading else None,
    }


def _source_to_plain(diagnosis: Diagnosis, source: Source) -> dict[str, Any]:
    table = diagnosis.table
    return {
        "kind": source.kind.value,
        "path": str(source.path),
        "snapshot": str(source.session.snapshot) if source.session else None,
        "loop": source.loop,
        "workspace": str(source.workspace) if source.workspace else None,
        "factors": list(diagnosis.features.sota) if diagnosis.features else [],
        "rows": table.rows if table else None,
        "start": table.start.isoformat() if table else None,
        "end": table.end.isoformat() if table else None,
        "fingerprint": table.fingerprint if table else None,
    }


def _show(diagnosis: Diagnosis) -> None:
    for label, value in _facts(diagnosis):
        out.print(f"[dim]{label:<12}[/] {escape(clean(value))}", soft_wrap=True)
    print_problems(diagnosis.notices, style="yellow", mark="!")
    print_problems(diagnosis.problems)
    if not diagnosis.problems:
        out.print(_verdict(diagnosis), style="green", soft_wrap=True)


def _verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.source is None or diagnosis.features is None:
        if diagnosis.settings is not None and diagnosis.settings.sota_seal_from is not None:
            return "No LOAD_SOTA_* is on: RD-Agent runs without SOTA factors, on sealed data."
        if diagnosis.settings is not None and diagnosis.settings.sota_accept_seeds is not None:
            return "No LOAD_SOTA_* is on: features as without the plugin; acceptances are tested over seeds."
        return "No LOAD_SOTA_* is on: RD-Agent runs as if the plugin were not installed."
    dates = f", {diagnosis.table.start}…{diagnosis.table.end}" if diagnosis.table else ""
    return f"{summarize(diagnosis.features)}{dates}, ready"


def _facts(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "plugin", f"active ({diagnosis.active})" if diagnosis.active else "not active"
    yield "rdagent", f"{diagnosis.rdagent} ({find_host().folder})" if diagnosis.rdagent else "not installed"
    if diagnosis.traits is not None:
        yield "its ways", diagnosis.traits.describe()
    yield "confinement", what_confines().describe()
    if diagnosis.settings is not None and diagnosis.settings.sota_accept_seeds is not None:
        seeds = diagnosis.settings.sota_accept_seeds
        yield "acceptance", f"in fin_model, only what beats the noise of {seeds} seeds (SOTA_ACCEPT_SEEDS)"
    source, table = diagnosis.source, diagnosis.table
    if source is not None:
        loop = f", loop {source.loop}" if source.loop is not None else ""
        yield "source", f"{source.kind.value} {source.path}{loop}"
        if source.session is not None:
            yield "snapshot", f"{source.session.snapshot} ({source.session.signature.value})"
        yield "table", str(source.table) if source.table else "gone; will be rebuilt"
        yield "source's IC", f"{source.metrics['IC']:.4f}" if "IC" in source.metrics else "unknown"
    if diagnosis.features is not None:
        yield "factors", ", ".join(diagnosis.features.sota)
    if table is not None:
        yield "rows", f"{table.rows:,}, {table.instruments} instruments"
        yield "fingerprint", table.fingerprint

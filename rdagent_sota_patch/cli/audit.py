"""``rdagent-sota audit``: does a mined factor see the future?"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.atomic import write_text_atomically
from rdagent_sota_patch.bundle.documents import MANIFEST_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli.output import (
    EXIT_PROBLEM,
    clean,
    err,
    out,
    print_json,
    print_problems,
    problem_to_plain,
    tell_of_open_ways,
)
from rdagent_sota_patch.errors import BundleError, Problem, SotaError
from rdagent_sota_patch.export.export_run import factor_codes as exported_codes
from rdagent_sota_patch.lookahead.auditing import Audited, AuditOptions, examine_factors
from rdagent_sota_patch.lookahead.factor_code import factor_codes
from rdagent_sota_patch.lookahead.kept import keep_audit
from rdagent_sota_patch.lookahead.picture import draw_changes
from rdagent_sota_patch.lookahead.verdicts import write_verdicts
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.lookahead.verdicts import FactorVerdict, Power

_JSON_FIELDS = {"name", "causal", "changed_share", "max_change", "lookback_days", "reads", "reason", "power"}


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What to audit, and where the results go.

    Attributes:
        target: A run's log, or a bundle.
        data: The data folder that the factors read, or its ``daily_pv.h5``.
        verdicts: File to write the verdicts to, beside the user's cache.
        pictures: Folder for a picture of each factor that is not causal.
    """

    target: Path
    data: Path
    verdicts: Path | None
    pictures: Path | None
    options: AuditOptions


def run_audit(request: AuditRequest, as_json: bool) -> None:
    """Audit every factor, keep the verdicts, and exit 1 if one sees the future or could not be judged."""
    codes = _codes_of(request.target)
    tell_of_open_ways()
    with _progress(len(codes)) as report:
        audited = examine_factors(codes, request.data, request.options, report)
    keep_audit(audited.audit, request.data)
    if request.verdicts is not None:
        write_verdicts(audited.audit, request.verdicts)
    pictures = _draw(audited, request.pictures) if request.pictures is not None else []
    if as_json:
        print_json(
            {
                "factors": [verdict.model_dump(include=_JSON_FIELDS) for verdict in audited.audit.factors],
                "notices": [problem_to_plain(notice) for notice in audited.notices],
            }
        )
    else:
        print_problems(audited.notices, style="yellow", mark="!")
        _show(audited, pictures)
    if not all(verdict.causal for verdict in audited.audit.factors):
        raise typer.Exit(EXIT_PROBLEM)


def _codes_of(target: Path) -> dict[str, str]:
    if (target / MANIFEST_NAME).is_file():
        return _bundled_codes(open_bundle(target))
    session = find_log(target, log_roots(os.environ))
    if session.sota is not None:
        return factor_codes(session)
    # A model stage's log: the factors are another log's.
    return exported_codes(session, None, tuple(load_settings().sota_workspace_root))


def _bundled_codes(bundle: Bundle) -> dict[str, str]:
    # Of two with one name, the table has the later one's column.
    factors = {factor.name: factor for factor in bundle.factors.factors}.values()
    missing = [
        Problem(
            "factor-code-missing",
            f"The bundle does not have the code of {factor.name}: {factor.missing_reason}.",
            "Export the run again where its session and workspaces are whole.",
        )
        for factor in factors
        if factor.code_relpath is None
    ]
    if missing:
        raise BundleError.of(missing)
    return {factor.name: bundle.read(str(factor.code_relpath)).decode("utf-8") for factor in factors}


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str, int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("auditing factors", total=count)
        yield lambda name, done, of: progress.update(task, completed=done, description=f"done: {clean(name)}")


def _draw(audited: Audited, folder: Path) -> list[Path]:
    drawn = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot make the folder {folder}: {error.strerror or error}.",
            "Name another one with --picture.",
        ) from error
    for place, (name, finding) in enumerate(audited.findings.items(), start=1):
        if finding.verdict.causal is not False:
            continue
        # Names come from a language model: not every one is a file's.
        path = folder / f"{place}_{re.sub(r'[^A-Za-z0-9_-]', '_', name)[:80]}.svg"
        write_text_atomically(path, draw_changes(finding, audited.days))
        drawn.append(path)
    return drawn


def _show(audited: Audited, pictures: list[Path]) -> None:
    audit = audited.audit
    table = Table(
        title=f"{audit.data_start}…{audit.data_end}, cut on {len(audit.cuts)} days", title_justify="left"
    )
    for heading in ("factor", "causal"):
        table.add_column(heading)
    for heading in ("changed", "largest change", "from", "history in days"):
        table.add_column(heading, justify="right")
    table.add_column("reads")
    for verdict in audit.factors:
        table.add_row(*_row(verdict), Text(clean(_files_of(verdict))))
    out.print(table)
    for verdict in audit.factors:
        if not verdict.causal:
            mark = ("✗ ", "red") if verdict.causal is False else ("? ", "yellow")
            out.print(
                Text.assemble(mark, f"{clean(verdict.name)}: {clean(verdict.reason)}"),
                soft_wrap=True,
            )
    if powers := [verdict.power for verdict in audit.factors if verdict.power is not None]:
        out.print(describe_power(powers), soft_wrap=True)
    for path in pictures:
        out.print(clean(path), markup=False, soft_wrap=True)


def describe_power(powers: Sequence[Power]) -> str:
    """What "yes" means: which peeks would have been found in each of the factors, and which may be there."""
    days = max(power.days_share for power in powers)
    rows = max(power.rows_share for power in powers)
    cuts = min(power.cuts for power in powers)
    values = min(power.rows for power in powers)
    return (
        f"yes: nothing changed on {cuts} cuts or more and in {values:,} values before them. A look ahead that changes "
        f"values, by however little, on {days:.1%} of the days, or stock by stock in {rows:.2%} of the values, would "
        "have been found with 95 %. A rarer one may be missed; --thorough, or more --cuts, leave less room for it."
    )


def _files_of(verdict: FactorVerdict) -> str:
    return ", ".join(f"{read.name}{'' if read.dated else ' (whole)'}" for read in verdict.reads)


def _row(verdict: FactorVerdict) -> tuple[Text, ...]:
    if verdict.causal:
        history = "whole" if verdict.lookback_days is None else str(verdict.lookback_days)
        return Text(clean(verdict.name)), Text("yes", "green"), Text(""), Text(""), Text(""), Text(history)
    if verdict.causal is None:
        return Text(clean(verdict.name)), Text("not judged", "yellow"), *(Text(""),) * 4
    largest = "came or went" if verdict.max_change is None else f"{verdict.max_change:.3g}"
    return (
        Text(clean(verdict.name)),
        Text("no", "red"),
        Text(f"{verdict.changed_share:.2%}"),
        Text(largest),
        Text(verdict.earliest_day or ""),
        Text(""),
    )

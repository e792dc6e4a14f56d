"""``rdagent-sota export``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.bundle.documents import NOT_AUDITED
from rdagent_sota_patch.bundle.folder import require_free
from rdagent_sota_patch.bundle.signing import read_key
from rdagent_sota_patch.cli.evidence import weigh_experiment
from rdagent_sota_patch.cli.output import (
    clean,
    err,
    find_market_data,
    out,
    print_json,
    print_problems,
    problem_to_plain,
    tell_of_open_ways,
)
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.export.choice import choose_experiment, find_better
from rdagent_sota_patch.export.export_run import Exported, ExportOptions, export_bundle, factor_codes
from rdagent_sota_patch.lookahead.kept import keep_audit, read_kept_audit
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rdagent_sota_patch.lookahead.verdicts import Audit
    from rdagent_sota_patch.sessions.records import Session

_SHOWN_FEATURES = 5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportFiles:
    """What ``export`` reads and writes beside the log.

    Attributes:
        data: The factors' data folder, or ``daily_pv.h5``; with it the factors are audited.
        key_file: Signs the manifest.
        thorough: Whether to audit on many more cuts.
    """

    log: Path
    target: Path
    data: Path | None
    key_file: Path | None
    thorough: bool = False


def run_export(files: ExportFiles, options: ExportOptions, sign: bool, as_json: bool) -> None:
    """Export the bundle, audited first where there is market data, and print a summary."""
    if sign != (files.key_file is not None):
        raise BundleError(
            "bad-key-file",
            "Signing takes a key: --sign and --key-file FILE go together.",
            "Make a key with: head -c 32 /dev/urandom > bundle.key",
        )
    require_free(files.target, force=options.force)
    key = read_key(files.key_file) if files.key_file is not None else None
    session = find_log(files.log, log_roots(os.environ))
    options = replace(options, key=key, roots=tuple(load_settings().sota_workspace_root))
    with _status() as report:
        if files.data is not None:
            from rdagent_sota_patch.lookahead import LEAST_CUTS, THOROUGH_CUTS
            from rdagent_sota_patch.lookahead.auditing import AuditOptions, examine_factors

            tell_of_open_ways()

            codes = factor_codes(session, options.chosen_stage, options.roots, options.pick)
            audited = examine_factors(
                codes,
                files.data,
                AuditOptions(THOROUGH_CUTS if files.thorough else LEAST_CUTS, trust=options.trust),
                report=lambda name, done, all_: report(f"auditing, {done} of {all_} factors"),
            )
            print_problems(audited.notices, style="yellow", mark="!")
            keep_audit(audited.audit, files.data)
            options = replace(options, audit=audited.audit)
        else:
            options = replace(options, audit=_find_kept(session, options))
        report("counting the trials")
        chosen = choose_experiment(session, options.chosen_stage, options.pick)
        options = replace(options, evidence=weigh_experiment(session, chosen.experiment, options.roots))
        exported = export_bundle(session, files.target, options, report)
    better = None if options.pick.loop is not None else find_better(session, chosen.experiment)
    notices = [] if better is None else [better]
    if as_json:
        weighed = None if isinstance(options.evidence, str) else options.evidence
        print_json(
            {
                **_to_plain(exported),
                "evidence": weighed,
                "notices": [problem_to_plain(notice) for notice in notices],
            }
        )
        return
    _show(exported, options.evidence)
    print_problems(notices, style="yellow", mark="!")


def _find_kept(session: Session, options: ExportOptions) -> Audit | None:
    """Verdicts of an earlier audit of all of these factors on the default data folder as it is now; None without."""
    data = find_market_data()
    if data is None:
        return None
    try:
        codes = factor_codes(session, options.chosen_stage, options.roots, options.pick)
        kept = read_kept_audit(codes, data)
    except BundleError:
        # What is wrong with the run, the export says; and without its verdicts, a factor is not audited.
        return None
    if kept is None:
        return None
    # One each; where any found a factor to see the future, that one.
    ordered = sorted(kept.factors, key=lambda verdict: verdict.causal is not False, reverse=True)
    verdicts = {verdict.name: verdict for verdict in ordered}
    if verdicts.keys() != codes.keys():
        return None
    return kept.model_copy(update={"factors": tuple(verdicts[name] for name in codes)})


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    with err.status("reading the log") as status:
        yield status.update


def _to_plain(exported: Exported) -> dict[str, Any]:
    manifest, order, meta, replayed = exported.manifest, exported.order, exported.meta, exported.replayed
    importance = meta.feature_importance if meta is not None else None
    return {
        "path": str(exported.folder.absolute()),
        "stage": manifest.stage,
        "factors_only": manifest.factors_only,
        "task_id": manifest.task_id,
        "loop": manifest.loop,
        "model": meta.kind if meta is not None else None,
        "factors": [
            {"name": factor.name, "in_table": factor.in_table, "missing_reason": factor.missing_reason}
            for factor in exported.factors.factors
        ],
        "factor_order": list(order.factor_order) if order is not None else None,
        "alpha_count": order.alpha_count if order is not None else None,
        "dynamic_factor_count": order.dynamic_factor_count if order is not None else None,
        "order_found": order.found if order is not None else None,
        "feature_importance": None if importance is None else [one.model_dump() for one in importance],
        "audit": manifest.audit if manifest.audit == NOT_AUDITED else manifest.audit.model_dump(),
        "replay": None
        if replayed is None
        else {
            "rows": replayed.rows,
            "days": replayed.days,
            "max_difference": replayed.max_difference,
            "rank_correlation": replayed.rank_correlation,
        },
        "files": {name: file.model_dump() for name, file in manifest.files.items()},
    }


def _show(exported: Exported, evidence: Mapping[str, Any] | str) -> None:
    manifest, order, meta = exported.manifest, exported.order, exported.meta
    size = sum(file.size for file in manifest.files.values()) / _MIB
    what = "factors alone" if manifest.factors_only else f"{manifest.stage} stage"
    out.print(
        f"Loop {manifest.loop} of {clean(manifest.task_id)}, {what} → {clean(exported.folder)}  "
        f"({len(manifest.files)} files, {size:.1f} MiB)",
        markup=False,
        soft_wrap=True,
    )
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    if meta is not None and order is not None:
        name = meta.model.get("class")
        days = "" if meta.step_len is None else f", {meta.step_len} days a sample"
        table.add_row("model", Text(clean(f"{name} ({meta.kind}){days}")))
        table.add_row(
            "features",
            f"{len(order.factor_order)}: {order.dynamic_factor_count} mined + {order.alpha_count} Alpha"
            + (", order proven on the back-test" if order.found == "proven" else ""),
        )
    _add_factors(table, exported)
    if meta is not None and meta.feature_importance:
        top = [one for one in meta.feature_importance if one.gain > 0][:_SHOWN_FEATURES]
        whole = sum(one.gain for one in meta.feature_importance) or 1.0
        weights = ", ".join(f"{clean(one.feature)} {one.gain / whole:.0%}" for one in top)
        table.add_row("gain", Text(weights))
    table.add_row("audit", Text(*_describe_audit(exported)))
    if not manifest.factors_only:
        table.add_row("replay", Text(*_describe_replay(exported)))
    if isinstance(evidence, str):
        table.add_row("evidence", Text(clean(f"none: {evidence}"), "yellow"))
    else:
        table.add_row("evidence", Text(clean(evidence["sentence"])))
    out.print(table)


def _add_factors(table: Table, exported: Exported) -> None:
    factors = exported.factors.factors
    names = [clean(factor.name) for factor in factors if factor.code_relpath is not None]
    if names:
        table.add_row("factors", Text(", ".join(names)))
    for factor in factors:
        if factor.missing_reason is not None:
            table.add_row(
                "", Text(f"{clean(factor.name)} without code: {clean(factor.missing_reason)}", "yellow")
            )


def _describe_audit(exported: Exported) -> tuple[str, str]:
    audit = exported.manifest.audit
    if audit == NOT_AUDITED:
        return (
            f"{NOT_AUDITED}: whether a factor looks ahead, and which files the factors read, is not in the bundle; "
            "with --data FOLDER it is",
            "yellow",
        )
    wrong = [clean(factor.name) for factor in audit.factors if factor.causal is False]
    unjudged = [clean(factor.name) for factor in audit.factors if factor.causal is None]
    if wrong or unjudged:
        parts = [f"see the future: {', '.join(wrong)}"] if wrong else []
        parts += [f"could not be judged: {', '.join(unjudged)}"] if unjudged else []
        return "; ".join(parts), "red" if wrong else "yellow"
    return f"no factor looks ahead ({len(audit.cuts)} cuts, {audit.data_start}…{audit.data_end})", "green"


def _describe_replay(exported: Exported) -> tuple[str, str]:
    replayed = exported.replayed
    if replayed is None:
        return "no evidence in the bundle, and nothing replayed", "yellow"
    difference = "exactly" if replayed.max_difference == 0 else f"within {replayed.max_difference:.1g} of"
    return f"{replayed.rows} scores on {replayed.days} days {difference} the back-test's", "green"

"""``rdagent-sota inspect``: reads the log alone, and imports neither RD-Agent nor Qlib."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from rdagent_sota_patch.cli.output import clean, err, out, print_json, print_problems
from rdagent_sota_patch.errors import TableError
from rdagent_sota_patch.export.choice import find_better
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.results.schemas import ANNUALIZED_RETURN, MAX_DRAWDOWN
from rdagent_sota_patch.sessions.budget import budget_of_answer, most_factors
from rdagent_sota_patch.sessions.locate import summarize
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.sessions.records import ExperimentKind, Signature
from rdagent_sota_patch.sessions.workspaces import find_workspace
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rdagent_sota_patch.results.factor_metrics import FactorMetrics
    from rdagent_sota_patch.sessions.records import ExperimentRecord, GivenFactors, Session

_COLUMNS = (
    ("IC", "IC"),
    ("ICIR", "ICIR"),
    ("Rank IC", "Rank IC"),
    ("ann. return", ANNUALIZED_RETURN),
    ("drawdown", MAX_DRAWDOWN),
)

_BASIS_POINTS = 10_000
_WIDE = 110
_LONGEST_LINE = 2_000
"""Characters of names on a line: a small log can hold a hundred thousand of them, or one that is endless."""
_FIGURES = (
    ("IC", "ic_mean", ".3f", True),
    ("t", "ic_t", ".1f", True),
    ("RankIC", "rank_ic_mean", ".3f", True),
    ("t", "rank_ic_t", ".1f", True),
    ("ICIR", "rank_icir", ".2f", False),
    ("5d", "rank_ic_5d", ".3f", True),
    ("10d", "rank_ic_10d", ".3f", False),
    ("20d", "rank_ic_20d", ".3f", True),
    ("turn", "turnover", ".2f", True),
    ("auto", "autocorrelation", ".2f", False),
    ("cover", "coverage", ".2f", True),
    ("top-low", "quantile_spread", "bp", True),
)
"""What a column is called, which figure it has, how it is written, and whether a narrow terminal has it as well."""


def run_inspect(log: Path, as_json: bool, *, metrics: bool = False, data: Path | None = None) -> None:
    """Print a run's loops.

    Args:
        log: As `find_log` takes it.
        as_json: As one object.
        metrics: With figures of each factor in the SOTA's table.
        data: Market data for them.
    """
    session = find_log(log, log_roots(os.environ))
    figures = _measure(session, data) if metrics else None
    if as_json:
        more = {} if figures is None else {"factor_metrics": figures.model_dump(mode="json")}
        document = {**_to_plain(session), **more}
        budget_of_answer().spend(document)
        _tell_left_out(document)
        print_json(document)
        return
    _show(session)
    if figures is not None:
        _show_figures(figures)


def _measure(session: Session, data: Path | None) -> FactorMetrics:
    from rdagent_sota_patch.cli.output import find_market_data
    from rdagent_sota_patch.results.factor_metrics import find_inputs, measure_factors, name_inputs

    roots = load_settings().sota_workspace_root
    inputs = find_inputs(session, None, roots, data or find_market_data())
    return measure_factors(session.task_id, inputs, name_inputs(session, inputs))


def _tell_left_out(document: dict[str, Any]) -> None:
    parts = [part for part in (*document["loops"], document["sota"], document["given"]) if part]
    if left_out := sum(part["factors_left_out"] for part in parts):
        err.print(
            f"! {left_out:,} factors are not listed: the log repeats them, or names more than are listed of one log; "
            "factors_left_out says where.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


class _Listed:
    """The factors of one log that are listed: each once in its place, and so many in all."""

    def __init__(self, session: Session) -> None:
        self._left = most_factors(session.signature is Signature.VERIFIED)

    def take(self, factors: Sequence[Any]) -> dict[str, Any]:
        """Those that are listed, and the number of the others."""
        once = list(dict.fromkeys(factors))[: self._left]
        self._left -= len(once)
        return {"factors": once, "factors_left_out": len(factors) - len(once)}


def _to_plain(session: Session) -> dict[str, Any]:
    sota, given, listed = session.sota, session.given, _Listed(session)
    # First what a run would load.
    of_sota = None if sota is None else listed.take(sota_names(session, sota))
    return {
        "task_id": session.task_id,
        "log": str(session.log),
        "snapshot": str(session.snapshot),
        "signature": session.signature.value,
        "skipped": [{"snapshot": str(path), "reason": reason} for path, reason in session.skipped],
        "hist_len": len(session.experiments),
        "loops": [_experiment_to_plain(experiment, listed) for experiment in session.experiments],
        "sota": {
            "loop": sota.loop,
            **of_sota,
            "workspace": str(sota.workspace) if sota.workspace else None,
            "metrics": dict(sota.metrics),
        }
        if sota and of_sota
        else None,
        "given": None
        if given is None
        else {"source": given.source, **asdict(given), **listed.take(given.factors)},
    }


def _experiment_to_plain(experiment: ExperimentRecord, listed: _Listed) -> dict[str, Any]:
    source = experiment.sota_source
    found = listed.take(
        [
            (factor.name, factor.description, factor.formulation, factor.implemented)
            for factor in experiment.factors
        ]
    )
    return {
        "loop": experiment.loop,
        "kind": experiment.kind.value,
        "decision": experiment.decision,
        "hypothesis": experiment.hypothesis,
        "factors": [
            dict(zip(("name", "description", "formulation", "implemented"), factor, strict=True))
            for factor in found["factors"]
        ],
        "factors_left_out": found["factors_left_out"],
        "model": {"name": experiment.model.name, "model_type": experiment.model.model_type}
        if experiment.model
        else None,
        "metrics": dict(experiment.metrics),
        "workspace": str(experiment.workspace) if experiment.workspace else None,
        "sota_source": dict(source) if source else None,
        "inherited_from": dict(experiment.inherited_from) if experiment.inherited_from else None,
        "seed_test": dict(experiment.seed_test) if experiment.seed_test else None,
    }


def sota_names(session: Session, sota: ExperimentRecord) -> tuple[str, ...]:
    """The factors of the SOTA table, by its footer where it is still there, else by the session.

    RD-Agent leaves a new factor out that is nearly one it has (``deduplicate_new_factors``), so that the session
    may name more.
    """
    if sota.workspace is not None:
        roots = load_settings().sota_workspace_root
        workspace, _ = find_workspace(sota.workspace, session.log, roots, holding=TABLE_NAME)
        if workspace is not None:
            try:
                return read_names(workspace / TABLE_NAME)
            except TableError as error:
                print_problems(error.problems, style="yellow", mark="!")
    records = (*sota.based_on, sota)
    return tuple(
        dict.fromkeys(factor.name for record in records for factor in record.factors if factor.implemented)
    )


def _show(session: Session) -> None:
    out.print(
        f"[bold]{escape(clean(session.task_id))}[/]  {escape(clean(session.loop_class))}, {session.signature.value}"
    )
    out.print(escape(clean(f"snapshot {session.snapshot}")), style="dim", soft_wrap=True)
    for path, reason in session.skipped:
        err.print(f"! skipped {clean(path)}: {clean(reason)}", style="yellow", markup=False, soft_wrap=True)
    sota = session.sota
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("loop", justify="right")
    table.add_column("kind")
    table.add_column("decision")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
    for experiment in session.experiments:
        table.add_row(
            str(experiment.loop),
            experiment.kind.value,
            _verdict(experiment, sota),
            *(_number(experiment.metrics.get(key)) for _, key in _COLUMNS),
        )
    out.print(table)
    for experiment in session.experiments:
        out.print(f"loop {experiment.loop}: {clean(_subject(experiment))}", markup=False, soft_wrap=True)
        if experiment.seed_test:
            said = f"  seeds: {_shortened(str(experiment.seed_test.get('sentence', '?')))}"
            out.print(clean(said), markup=False, soft_wrap=True)
        if experiment.workspace is not None:
            out.print(f"  {clean(experiment.workspace)}", style="dim", markup=False, soft_wrap=True)
    last = [accepted[-1] for kind in ExperimentKind if (accepted := session.accepted(kind))]
    better = [notice for each in last if (notice := find_better(session, each)) is not None]
    print_problems(better, style="yellow", mark="!")
    given = session.given
    if given is not None:
        out.print(f"Given: {clean(_describe_given(given))}", style="green", markup=False, soft_wrap=True)
    if sota is None:
        if given is None:
            out.print(f"No SOTA factors in this log: {summarize(session)}.", style="yellow")
        return
    names = sota_names(session, sota)
    origin = sota.inherited_from
    place = (
        f"loop {sota.loop}"
        if origin is None
        else f"inherited from loop {origin['loop']} of {origin['task_id']}"
    )
    out.print(
        f"SOTA: {escape(clean(place))}, {len(names)} factors: {escape(clean(_listed(names)))}",
        style="green",
        soft_wrap=True,
    )


def _describe_given(given: GivenFactors) -> str:
    names = [name if loop is None else f"{name} (loop {loop})" for name, loop in given.factors]
    place = "" if given.loop is None else f"loop {given.loop} of "
    count = len(names)
    return f"{count} SOTA {'factor' if count == 1 else 'factors'} of {place}{given.source}: {_listed(names)}"


def _show_figures(found: FactorMetrics) -> None:
    wide = out.width >= _WIDE
    columns = [(label, name, form) for label, name, form, always in _FIGURES if always or wide]
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("factor", overflow="fold", min_width=10)
    for label, _, _ in columns:
        table.add_column(label, justify="right", no_wrap=True)
    for item in found.metrics:
        values = [_figure(getattr(item, name), form) for _, name, form in columns]
        table.add_row(escape(clean(item.factor_name)), *values)
    out.print()
    out.print(table)
    first = next(iter(found.metrics), None)
    span = f", {first.data_start} to {first.data_end}" if first is not None else ""
    out.print(
        f"Loop {found.loop}{span}; returns from {clean(found.return_source)}, entered on the day after. top-low: mean "
        "daily return of the top fifth less the bottom fifth, in basis points. --json has every figure.",
        style="dim",
        markup=False,
    )
    for notice in found.notices:
        err.print(f"! {clean(notice)}", style="yellow", markup=False, soft_wrap=True)
    shown = [name for _, name, _ in columns]
    missing = (item.missing[name] for item in found.metrics for name in shown if name in item.missing)
    for reason in dict.fromkeys(missing):
        err.print(f"A dash: {clean(reason)}", style="dim", markup=False, soft_wrap=True)


def _figure(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value * _BASIS_POINTS:.1f}" if form == "bp" else f"{value:{form}}"


def _verdict(experiment: ExperimentRecord, sota: ExperimentRecord | None) -> str:
    if experiment is sota:
        return "[bold green]accepted ← SOTA[/]"
    return "[green]accepted[/]" if experiment.decision else "[red]rejected[/]"


def _subject(experiment: ExperimentRecord) -> str:
    origin = experiment.inherited_from
    if origin is None:
        return _content(experiment)
    return f"{_content(experiment)} (inherited: loop {origin['loop']} of {origin['task_id']})"


def _content(experiment: ExperimentRecord) -> str:
    if experiment.kind is ExperimentKind.MODEL and experiment.model is not None:
        text = _shortened(f"{experiment.model.name} ({experiment.model.model_type})")
        source = experiment.sota_source
        if source:
            factors, features = source.get("sota_factor_count", "?"), source.get("num_features", "?")
            text += f" on {factors} SOTA factors, {features} features"
        return text
    return _listed(
        [
            factor.name if factor.implemented else f"{factor.name} (code not accepted)"
            for factor in experiment.factors
        ]
    )


def _listed(names: Sequence[str]) -> str:
    """As many names as a line may take, and the number of the others."""
    shown, room = list[str](), _LONGEST_LINE
    for name in names:
        room -= len(name) + 2
        if shown and room < 0:
            break
        shown.append(_shortened(name))
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more (--json has more)" if more else "")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}…"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"

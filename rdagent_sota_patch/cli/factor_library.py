"""``rdagent-sota library``: the factors of all runs in one folder."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rdagent_sota_patch.cli.output import (
    EXIT_PROBLEM,
    DataOption,
    JsonOption,
    clean,
    count,
    find_market_data,
    out,
    print_json,
    print_problems,
    problem_to_plain,
    reports_errors,
)
from rdagent_sota_patch.errors import SotaError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rdagent_sota_patch.factor_library.entries import LibraryFactor
    from rdagent_sota_patch.factor_library.shelving import Added, Findings
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.lookahead.verdicts import Audit

library = typer.Typer(no_args_is_help=True, help="Keep the factors of all runs in one folder, by hash.")

LibraryOption = Annotated[
    Path | None,
    typer.Option(
        "--library",
        help="The library's folder; rdagent-sota/library in XDG_DATA_HOME, or in ~/.local/share, if not given.",
    ),
]
_SHOWN = 8
"""Letters of a hash in the table."""


class FactorSort(str, Enum):
    """A column of the list."""

    ADDED = "added"
    NAME = "name"
    IC = "ic"
    RANK_IC = "rank-ic"
    ICIR = "icir"
    COVERAGE = "coverage"


@library.command("add")
@reports_errors
def library_add(
    logs: Annotated[
        list[Path],
        typer.Argument(metavar="LOG...", help="Runs' log folders, or 'latest'; each one's accepted factors."),
    ],
    *,
    folder: LibraryOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the accepted factors of runs, with figures, verdicts of earlier audits and where they come from."""
    from rdagent_sota_patch.cli.save import find_factors
    from rdagent_sota_patch.factor_library.shelving import add_factors

    place = _place(folder)
    documents = []
    for log in logs:
        source, path = find_factors(log)
        findings = _find_out(source, path, data or find_market_data())
        added = add_factors(place, source, path, findings)
        documents.append(_added_to_plain(source, added, findings))
        if not as_json:
            _show_added(source, added, findings, place)
    if as_json:
        print_json({"library": str(place.absolute()), "runs": documents})


@library.command("list")
@reports_errors
def library_list(
    search: Annotated[
        str | None,
        typer.Option(
            "--search", help="Only those with this text in name, description, formula, code or run."
        ),
    ] = None,
    *,
    sort: Annotated[
        FactorSort,
        typer.Option("--sort", help="What to sort by; figures by their size, whatever their sign."),
    ] = FactorSort.ADDED,
    folder: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the factors of the library."""
    from rdagent_sota_patch.factor_library.entries import read_library

    place = _place(folder)
    factors, problems = read_library(place)
    found = sorted((each for each in factors if _matches(each, search)), key=_ORDERS[sort])
    if as_json:
        print_json(
            {
                "library": str(place.absolute()),
                "total": len(factors),
                "factors": [_to_plain(each, whole=False) for each in found],
                "problems": [problem_to_plain(problem) for problem in problems],
            }
        )
    else:
        _show_list(found, len(factors), place)
        print_problems(problems)
    if problems:
        raise typer.Exit(EXIT_PROBLEM)


@library.command("show")
@reports_errors
def library_show(
    factor: Annotated[
        str, typer.Argument(metavar="HASH|NAME", help="The factor's hash, its first letters, or its name.")
    ],
    *,
    folder: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a factor: code, figures, verdict and the runs that it comes from. Its code is never run."""
    from rdagent_sota_patch.factor_library.entries import find_factor

    found = find_factor(_place(folder), factor)
    if as_json:
        print_json(_to_plain(found, whole=True))
    else:
        _show(found)


@library.command("use")
@reports_errors
def library_use(
    factors: Annotated[
        list[str],
        typer.Argument(metavar="HASH|NAME...", help="Factors' hashes, their first letters, or their names."),
    ],
    *,
    target: Annotated[Path, typer.Option("--out", help="The factor file to write; replaced if it exists.")],
    folder: LibraryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write factors of the library to a factor file, which LOAD_SOTA_FACTORS takes."""
    from rdagent_sota_patch.cli.save import merged_to_plain, show_merged
    from rdagent_sota_patch.factor_library.entries import find_factors
    from rdagent_sota_patch.factor_library.shelving import use_factors
    from rdagent_sota_patch.factor_table.saving import require_parquet_name

    require_parquet_name(target)
    place = _place(folder)
    found = {each.id: each for each in find_factors(place, factors)}
    merged = use_factors(place, list(found.values()), target)
    if as_json:
        print_json({**merged_to_plain(merged), "ids": list(found)})
    else:
        show_merged(merged, every_part=False)


def _place(folder: Path | None) -> Path:
    from rdagent_sota_patch.factor_library.entries import default_library

    return folder or default_library()


def _find_out(source: Source, path: Path, data: Path | None) -> Findings:
    """Figures and verdicts of a run's factors; why there are none where there are none."""
    from rdagent_sota_patch.factor_library.shelving import Findings
    from rdagent_sota_patch.factor_table.metrics import FactorFigures
    from rdagent_sota_patch.results.factor_metrics import (
        DATA_NAME,
        Inputs,
        measure_factors,
        name_inputs,
    )

    audits = _find_audits(source, data)
    assert source.session is not None and source.experiment is not None
    file = data / DATA_NAME if data is not None and data.is_dir() else data
    inputs = Inputs(source.experiment, path, file)
    try:
        measured = measure_factors(source.session.task_id, inputs, name_inputs(source.session, inputs))
    except SotaError as error:
        return Findings({}, f"No figures: {error.problems[0].message}", audits)
    names = [field.name for field in fields(FactorFigures)]
    figures = {
        item.factor_name: FactorFigures(**{name: getattr(item, name) for name in names})
        for item in measured.metrics
    }
    return Findings(figures, measured.return_source, audits)


def _find_audits(source: Source, data: Path | None) -> dict[str, Audit]:
    """What an earlier audit on this market data found of each factor."""
    from rdagent_sota_patch.factor_library.entries import weigh
    from rdagent_sota_patch.lookahead.kept import read_kept_audit

    codes = {origin.name: origin.code for origin in source.origins if origin.code is not None}
    if data is None or not codes:
        return {}
    try:
        kept = read_kept_audit(codes, data)
    except SotaError as error:
        print_problems(error.problems, style="yellow", mark="!")
        return {}
    if kept is None:
        return {}
    # One each, the last of them the one that outweighs the others.
    audits = sorted((kept.model_copy(update={"factors": (each,)}) for each in kept.factors), key=weigh)
    return {audit.factors[0].name: audit for audit in audits}


def _matches(factor: LibraryFactor, text: str | None) -> bool:
    if text is None:
        return True
    runs = [each for run in factor.lineage for each in (run.name, run.task_id)]
    places = (factor.id, factor.description, factor.formulation, factor.code or "", *runs)
    return any(text.casefold() in place.casefold() for place in places)


def _by_figure(name: str) -> Callable[[LibraryFactor], tuple[float, str]]:
    def order(factor: LibraryFactor) -> tuple[float, str]:
        value = None if factor.figures is None else getattr(factor.figures, name)
        return (1.0 if value is None else -abs(value), factor.name)

    return order


_ORDERS: dict[FactorSort, Callable[[LibraryFactor], Any]] = {
    FactorSort.ADDED: lambda factor: (factor.lineage[0].added_utc, factor.name),
    FactorSort.NAME: lambda factor: (factor.name, factor.id),
    FactorSort.IC: _by_figure("ic_mean"),
    FactorSort.RANK_IC: _by_figure("rank_ic_mean"),
    FactorSort.ICIR: _by_figure("icir"),
    FactorSort.COVERAGE: _by_figure("coverage"),
}


def _to_plain(factor: LibraryFactor, *, whole: bool) -> dict[str, Any]:
    left_out = set() if whole else {"code", "audit"}
    document = factor.model_dump(mode="json", exclude=left_out)
    return {**document, "verdict": factor.verdict}


def _added_to_plain(source: Source, added: Iterable[Added], findings: Findings) -> dict[str, Any]:
    return {
        "task_id": source.task_id,
        "log": str(source.path),
        "loop": source.loop,
        "figures_from": findings.figures_from,
        "factors": [
            {
                "id": each.factor.id,
                "name": each.factor.name,
                "change": each.change,
                "verdict": each.factor.verdict,
            }
            for each in added
        ],
    }


def _show_added(source: Source, added: list[Added], findings: Findings, place: Path) -> None:
    counts = {change: sum(each.change == change for each in added) for change in ("new", "updated", "there")}
    out.print(
        f"{clean(source.task_id)}: {count(counts['new'], 'factor')} added, {counts['updated']} updated, "
        f"{counts['there']} there already → {clean(place)}",
        markup=False,
        soft_wrap=True,
    )
    if not findings.figures:
        out.print(clean(findings.figures_from), style="yellow", markup=False, soft_wrap=True)


def _show_list(factors: list[LibraryFactor], total: int, place: Path) -> None:
    if not factors:
        out.print(f"None of {count(total, 'factor')} in {clean(place)}.", markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("hash", "name", "IC", "Rank IC", "ICIR", "cover", "days", "audit", "runs"):
        numbers = name in ("IC", "Rank IC", "ICIR", "cover", "runs")
        table.add_column(
            name,
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=name not in ("name", "audit"),
        )
    for factor in factors:
        figures = asdict(factor.figures) if factor.figures is not None else {}
        table.add_row(
            factor.id[:_SHOWN],
            Text(clean(factor.name)),
            *(_number(figures.get(name)) for name in ("ic_mean", "rank_ic_mean")),
            _number(figures.get("icir"), 2),
            _number(figures.get("coverage"), 2),
            Text(clean(f"{factor.start}…{factor.end}")),
            Text(factor.verdict, _COLOURS.get(factor.verdict, "")),
            str(len(factor.lineage)),
        )
    out.print(table)
    out.print(f"{len(factors)} of {count(total, 'factor')} in {clean(place)}.", style="dim", markup=False)


_COLOURS = {"causal": "green", "sees the future": "red", "not judged": "yellow"}


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _show(factor: LibraryFactor) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    rows = {
        "hash": factor.id,
        "description": factor.description,
        "formula": factor.formulation,
        "variables": "; ".join(f"{name}: {text}" for name, text in factor.variables.items()),
        "values": f"{count(factor.rows, 'row')}, {factor.start}…{factor.end}, {count(factor.instruments, 'stock')}",
        "audit": factor.verdict,
        "returns": factor.figures_from,
        **_figures(factor),
    }
    for name, text in rows.items():
        if text:
            table.add_row(name, Text(clean(text)))
    for run in factor.lineage:
        loop = "" if run.loop is None else f"loop {run.loop}, "
        table.add_row(
            "run",
            Text(clean(f"{run.task_id}: {loop}accepted in {run.accepted_loop}, as {run.name}; {run.log}")),
        )
    out.print(Group(Text(clean(factor.name), "bold"), table))
    if factor.code is None:
        out.print("Its code is not known.", style="yellow")
        return
    from rich.syntax import Syntax

    out.print()
    # Line by line: what hides in it is shown, and nothing but a line's end begins a line.
    lines = re.split("\r?\n", factor.code.expandtabs(4))
    out.print(Syntax("\n".join(map(clean, lines)), "python", background_color="default", word_wrap=True))


def _figures(factor: LibraryFactor) -> dict[str, str]:
    if factor.figures is None:
        return {}
    figures = asdict(factor.figures)
    shown = {
        "IC": ("ic_mean", "ic_t"),
        "Rank IC": ("rank_ic_mean", "rank_ic_t"),
    }
    texts = {
        name: f"{_number(figures[mean])} (t {figures[t]:.1f})"
        for name, (mean, t) in shown.items()
        if figures[mean] is not None and figures[t] is not None
    }
    return texts | {
        name: _number(figures[field])
        for name, field in (("ICIR", "icir"), ("coverage", "coverage"), ("turnover", "turnover"))
    }

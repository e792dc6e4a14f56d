"""The pages as HTML. Whatever comes from a log is escaped as text; nothing is loaded, and nothing runs."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.results.outlines import best_of
from rdagent_sota_patch.results.schemas import COMMANDS
from rdagent_sota_patch.server import numbers
from rdagent_sota_patch.server.chart import draw_chart, mark_of
from rdagent_sota_patch.server.code import highlight_code, show_hidden
from rdagent_sota_patch.server.day_charts import Drawing, draw_curves
from rdagent_sota_patch.server.downloads import (
    asset_address,
    list_downloads,
    page_address,
    sync_command,
    task_address,
)
from rdagent_sota_patch.server.formulas import convert_formula

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdagent_sota_patch.results.curves import Curves
    from rdagent_sota_patch.results.factor_metrics import FactorMetrics
    from rdagent_sota_patch.results.outlines import RunOrder
    from rdagent_sota_patch.results.schemas import (
        FactorItem,
        LoopList,
        ModelItem,
        ProblemDocument,
        SotaFactorAnchor,
        TaskItem,
        TaskList,
        TaskManifest,
        TaskSummary,
    )

_PACKAGE = __name__.rpartition(".")[0]
_STYLE = (files(_PACKAGE) / "templates" / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")

_MOST_FACTORS_COMPARED = 500

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The header that the pages are to be served with: their own style, and nothing else, from nowhere."""

LIST_POLICY = CONTENT_SECURITY_POLICY.replace("form-action 'none'", "form-action 'self'")
"""The same for the list, whose form asks this server for a comparison."""

_RUN_COLUMNS = (
    ("name", "Run", False),
    ("ended", "Ended", False),
    ("kind", "Kind", False),
    ("loops", "Loops", True),
    ("accepted", "Accepted", True),
    ("ic", "Best IC", True),
    ("return", "Best return", True),
    ("factors", "SOTA factors", False),
)
"""Of the list: the order that a heading asks for, its text, and whether its values are numbers."""


@dataclass(frozen=True, slots=True)
class BacktestView:
    """The days of a loop's back-test: drawn, and why something is missing."""

    loop: int
    drawing: Drawing | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One of the runs that are compared: its row in the list, its factors by name, its last accepted model."""

    row: TaskItem
    mined: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    model: ModelItem | None = None


def compared_run(row: TaskItem, summary: TaskSummary | None) -> ComparedRun:
    """A run as it is compared; without a summary it could not be read."""
    if summary is None:
        return ComparedRun(row)
    last = summary.last_accepted_model
    return ComparedRun(
        row,
        mined=()
        if summary.sota is None
        else tuple(each.name for each in summary.sota.factors if each.implemented),
        given=() if summary.given is None else tuple(each.name for each in summary.given.factors),
        model=None if last is None else last.model,
    )


def render_comparison(runs: Sequence[ComparedRun]) -> str:
    """Some runs side by side: figures, factors, models."""
    names = list(dict.fromkeys(name for run in runs for name in (*run.given, *run.mined)))
    tops = {
        metric: max((value for run in runs if (value := best_of(run.row, metric)) is not None), default=None)
        for metric, _ in numbers.COLUMNS
    }
    return _render(
        "compare.html",
        runs=runs,
        factors=names[:_MOST_FACTORS_COMPARED],
        more=max(0, len(names) - _MOST_FACTORS_COMPARED),
        tops=tops if len(runs) > 1 else dict.fromkeys(tops),
    )


def render_runs(
    listing: TaskList, address: str | None = None, *, order: RunOrder | None = None, reverse: bool = False
) -> str:
    """The list of runs.

    Args:
        listing: One page of it; links to those before and after it go to ``/?offset=…``.
        address: Of the server, where that is known; else the reader fills it in, and a token is needed.
        order: The column that it is sorted by, and
        reverse: whether the other way round.
    """
    before = max(0, listing.offset - listing.limit)
    after = listing.offset + listing.limit
    return _render(
        "runs.html",
        listing=listing,
        order=order,
        reverse=reverse,
        run_columns=_RUN_COLUMNS,
        newer=None if listing.offset == 0 else _list_address(order, reverse, before),
        older=_list_address(order, reverse, after) if after < listing.total else None,
        sync=sync_command("latest", address),
        address=address,
    )


def render_run(
    manifest: TaskManifest,
    summary: TaskSummary,
    loops: LoopList,
    anchor: SotaFactorAnchor,
    codes: Mapping[str, str],
    *,
    address: str | None = None,
    figures: FactorMetrics | None = None,
    no_figures: str | None = None,
    backtest: BacktestView | None = None,
    given_known: bool = False,
) -> str:
    """One run: its loops as chart and table, a back-test, the factors, its models, what can be downloaded.

    Args:
        codes: Text of the factors' code, by their key for ``asset_bytes``.
        address: See `render_runs`.
        figures: Of the SOTA's factors; None where they were not computed yet, which a link then does.
        no_figures: Why they cannot be computed.
        backtest: Of one of its loops; None where no loop has one.
        given_known: Whether the run that its factors come from is on this server.
    """
    added, based = _split_factors(summary, loops)
    return _render(
        "run.html",
        manifest=manifest,
        summary=summary,
        loops=loops.loops,
        chart=draw_chart(loops.loops) if loops.loops else None,
        anchor=anchor,
        added=added,
        based=based,
        codes=codes,
        downloads=list_downloads(manifest, anchor),
        sync=sync_command(manifest.task_id, address) if summary.sota is not None else None,
        address=address,
        figures=figures,
        no_figures=no_figures,
        backtest=backtest,
        given=summary.given,
        given_known=given_known,
    )


def render_problem(document: ProblemDocument) -> str:
    """A problem document."""
    return _render("problem.html", document=document)


def view_backtest(loop: int, found: Curves | SotaError) -> BacktestView:
    """A loop's back-test as the page shows it."""
    if isinstance(found, SotaError):
        return BacktestView(loop, None, tuple(each.message for each in found.problems))
    return BacktestView(loop, draw_curves(found), found.missing)


def _list_address(order: RunOrder | None, reverse: bool, offset: int) -> str:
    asked = [] if order is None else [f"sort={order}"]
    asked += ["reverse=true"] if reverse else []
    asked += [f"offset={offset}"] if offset else []
    return f"/?{'&'.join(asked)}" if asked else "/"


def _split_factors(
    summary: TaskSummary, loops: LoopList
) -> tuple[tuple[FactorItem, ...], tuple[FactorItem, ...]]:
    """The SOTA's factors: those that its own loop added, and those that it was built on."""
    if summary.sota is None:
        return (), ()
    every = summary.sota.factors
    own = next((len(loop.factors) for loop in loops.loops if loop.is_last_sota), len(every))
    return every[len(every) - own :], every[: len(every) - own]


def _render(name: str, **values: object) -> str:
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(_PACKAGE, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup(_STYLE),
        annualized_return=numbers.ANNUALIZED_RETURN,
        best_of=best_of,
        commands=COMMANDS,
        ic=numbers.IC,
        sort_address=lambda order, reverse: _list_address(order, reverse, 0),
        columns=numbers.COLUMNS,
        figure_columns=numbers.FIGURES,
        format_figure=numbers.format_figure,
        asset_address=asset_address,
        page_address=page_address,
        task_address=task_address,
    )
    environment.filters.update(
        code=highlight_code,
        file_name=lambda path: path.rpartition("/")[2],
        formula=convert_formula,
        label=numbers.label_metric,
        mark=mark_of,
        minute=lambda text: numbers.format_time(text).removesuffix(" UTC"),
        time=numbers.format_time,
    )
    environment.globals["format_metric"] = numbers.format_metric
    return environment


def _finalize(value: object) -> object:
    """What becomes of each value before it is escaped."""
    if value is None:
        raise TypeError("A template shows a value that there is not.")
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return show_hidden(value)

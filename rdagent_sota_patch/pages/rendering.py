"""The pages as HTML. Whatever comes from a log stands in them as text; nothing is loaded, and nothing runs."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rdagent_sota_patch.pages import numbers
from rdagent_sota_patch.pages.chart import draw_chart, mark_of
from rdagent_sota_patch.pages.code import highlight_code
from rdagent_sota_patch.pages.downloads import (
    asset_address,
    list_downloads,
    page_address,
    sync_command,
    task_address,
)
from rdagent_sota_patch.pages.formulas import convert_formula
from rdagent_sota_patch.pages.visible import show_hidden

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdagent_sota_patch.results.factor_metrics import FactorMetrics
    from rdagent_sota_patch.results.schemas import (
        FactorItem,
        LoopList,
        ProblemDocument,
        SotaFactorAnchor,
        TaskList,
        TaskManifest,
        TaskSummary,
    )

_PACKAGE = __name__.rpartition(".")[0]
_STYLE = (files(_PACKAGE) / "templates" / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The header that the pages are to be served with: their own style, and nothing else, from nowhere."""


def render_runs(listing: TaskList, address: str | None = None) -> str:
    """The list of runs.

    Args:
        listing: One page of it; links to those before and after it go to ``/?offset=…``.
        address: Of the server, where that is known; else the reader fills it in, and a token is needed.
    """
    before = max(0, listing.offset - listing.limit)
    after = listing.offset + listing.limit
    return _render(
        "runs.html",
        listing=listing,
        newer=None if listing.offset == 0 else f"/?offset={before}" if before else "/",
        older=f"/?offset={after}" if after < listing.total else None,
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
) -> str:
    """One run: its loops as chart and table, the SOTA's factors, its models, what can be downloaded.

    Args:
        codes: Text of the factors' code, by their key for ``asset_bytes``.
        address: See `render_runs`.
        figures: Of the SOTA's factors; None where they were not computed yet, which a link then does.
        no_figures: Why they cannot be computed.
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
    )


def render_problem(document: ProblemDocument) -> str:
    """A problem document."""
    return _render("problem.html", document=document)


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

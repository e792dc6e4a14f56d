"""``rdagent-sota runs``: the runs under a log root, one row each; reads the logs alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from rdagent_sota_patch.cli.output import clean, err, out, print_json
from rdagent_sota_patch.results.outlines import Outlines, RunOrder, best_of, sort_runs
from rdagent_sota_patch.results.schemas import ANNUALIZED_RETURN, COMMANDS, IC
from rdagent_sota_patch.results.tasks import TaskFolder
from rdagent_sota_patch.sessions.logs import log_root

if TYPE_CHECKING:
    from rdagent_sota_patch.results.schemas import TaskItem

_COLUMNS = ("run", "ended", "kind", "loops", "acc.", "IC", "return", "SOTA")
_NUMBERS = frozenset({"loops", "acc.", "IC", "return"})
_NAME = 26
"""Characters of a log folder's name as RD-Agent gives it: a time to the microsecond."""
_WIDE = 100
"""From this width on, times have minutes."""


def run_runs(folder: Path | None, as_json: bool, *, order: RunOrder, reverse: bool, limit: int) -> None:
    """Print the runs right below a folder.

    Args:
        folder: The log root; the one of this environment if None.
        as_json: As one object.
        order: The column to sort by.
        reverse: The other way round.
        limit: How many of the newest to read; 0 for all.
    """
    root = folder or log_root(os.environ)
    found = TaskFolder(root).list()
    outlines = Outlines()
    try:
        rows = sort_runs(outlines.read(found[:limit] if limit else found), order, reverse=reverse)
    finally:
        outlines.close()
    if as_json:
        print_json(
            {
                "log_root": str(root.absolute()),
                "total": len(found),
                "runs": [row.model_dump(mode="json") for row in rows],
            }
        )
        return
    _show(rows, root, len(found))


def _show(rows: list[TaskItem], root: Path, total: int) -> None:
    if not rows:
        out.print(f"No runs in {clean(root.absolute())}.", markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in _COLUMNS:
        # A name of usual length is whole in any terminal; what the SOTA is may take two lines.
        wraps = name in ("run", "SOTA")
        table.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            overflow="fold",
            no_wrap=not wraps,
            min_width=_NAME if name == "run" else None,
        )
    for row in rows:
        table.add_row(*_cells(row, 16 if out.width >= _WIDE else 10))
    out.print(table)
    out.print(
        "Times are UTC; IC and annualized return: the best of the accepted loops, after costs. inspect RUN shows its "
        "loops.",
        style="dim",
    )
    for row in rows:
        if row.problem is not None:
            err.print(
                f"! {clean(row.task_id)}: {clean(row.problem.message)}  [{row.problem.slug}]",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
    if len(rows) < total:
        err.print(f"The newest {len(rows):,} of {total:,} runs; --limit 0 reads all.", style="dim")


def _cells(row: TaskItem, letters: int) -> tuple[str, ...]:
    time, name = (
        (row.ended_at_utc or row.updated_at_utc)[:letters].replace("T", " "),
        escape(clean(row.task_id)),
    )
    if row.problem is not None:
        return name, time, "", "", "", "", "", "[yellow]cannot be read[/]"
    ic, gain = best_of(row, IC), best_of(row, ANNUALIZED_RETURN)
    return (
        name,
        time,
        "other" if row.kind is None else COMMANDS.get(row.kind, row.kind),
        str(row.loops),
        str(row.accepted),
        "" if ic is None else f"{ic:.4f}",
        "" if gain is None else f"{100 * gain:.2f} %",
        _factors(row),
    )


def _factors(row: TaskItem) -> str:
    said = []
    if row.sota_loop is not None:
        said.append(f"[green]{row.sota_factors}, loop {row.sota_loop}[/]")
    if row.given_from is not None:
        said.append(f"given {row.given_factors} of {escape(clean(row.given_from))}")
    return "; ".join(said)

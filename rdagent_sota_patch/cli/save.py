"""``rdagent-sota save``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.cli.output import clean, count, out, print_json, print_problems, problem_to_plain
from rdagent_sota_patch.factor_table.duplicates import DUPLICATE_FROM
from rdagent_sota_patch.factor_table.saving import require_parquet_name, save_source, save_sources
from rdagent_sota_patch.factor_table.sources import source_of
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rdagent_sota_patch.factor_table.merging import LeftOut, Merged
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.factor_table.table import FactorTable


def run_save(logs: Sequence[Path], target: Path, as_json: bool) -> None:
    """Write the accepted factors of one run or several to ``target``; a table that is gone is rebuilt with RD-Agent."""
    require_parquet_name(target)
    found = [find_factors(log) for log in logs]
    if len(found) > 1:
        merged = save_sources(found, target)
        runs = [
            {"task_id": source.task_id, "log": str(source.path), "loop": source.loop} for source, _ in found
        ]
        if as_json:
            print_json({**merged_to_plain(merged), "loop": None, "runs": _add_shares(runs, merged)})
        else:
            show_merged(merged)
        return
    ((source, path),) = found
    table = save_source(source, path, target)
    if as_json:
        print_json({**table_to_plain(table), "loop": source.loop})
        return
    out.print(
        f"{count(len(table.names), 'factor')} of loop {source.loop}: {clean(', '.join(table.names))}\n"
        f"{count(table.rows, 'row')}, {table.start}…{table.end} → {clean(target)}",
        markup=False,
        soft_wrap=True,
    )


def find_factors(log: Path) -> tuple[Source, Path]:
    """The accepted factors of a run, and their table."""
    source = source_of(find_log(log, log_roots(os.environ)), load_settings().sota_workspace_root)
    if source.table is not None:
        return source, source.table
    from rdagent_sota_patch.plugin.rebuild import rebuild_table

    return source, rebuild_table(source)


def table_to_plain(table: FactorTable) -> dict[str, Any]:
    """A factor file as JSON has it."""
    document = asdict(table)
    document["path"] = str(table.path.absolute())
    document["start"], document["end"] = table.start.isoformat(), table.end.isoformat()
    del document["stat"], document["canonical"], document["coverage"]
    return document


def merged_to_plain(merged: Merged) -> dict[str, Any]:
    """A merged factor file as JSON has it, with what was left out and what was renamed."""
    return {
        **table_to_plain(merged.table),
        "left_out": [asdict(each) for each in merged.left_out],
        "renamed": [
            {"name": origin.name, "renamed_from": origin.renamed_from, "label": label}
            for origin, label in zip(merged.origins, merged.labels, strict=True)
            if origin.renamed_from is not None
        ],
        "notices": [problem_to_plain(notice) for notice in merged.notices],
    }


def show_merged(merged: Merged, *, every_part: bool = True) -> None:
    """Print what a merged factor file has, and what became of the rest; of parts, all or those that lack rows."""
    table = merged.table
    lines = [
        f"{count(len(table.names), 'factor')}: {', '.join(table.names)}",
        f"{count(table.rows, 'row')}, {table.start}…{table.end} → {table.path}",
        *_describe_shares(merged, every_part=every_part),
        *(
            f"{origin.renamed_from} of {label} is called {origin.name} here: another factor has its name."
            for origin, label in zip(merged.origins, merged.labels, strict=True)
            if origin.renamed_from is not None
        ),
        *(f"{each.name} of {each.label} is left out: {_describe_reason(each)}." for each in merged.left_out),
    ]
    out.print("\n".join(map(clean, lines)), markup=False, soft_wrap=True)
    print_problems(merged.notices, style="yellow", mark="!")


def _add_shares(runs: list[dict[str, Any]], merged: Merged) -> list[dict[str, Any]]:
    return [
        {
            **run,
            "label": share.label,
            "factors": merged.labels.count(share.label),
            "rows": share.rows,
            "rows_alone": share.alone,
        }
        for run, share in zip(runs, merged.shares, strict=True)
    ]


def _describe_shares(merged: Merged, *, every_part: bool) -> Iterator[str]:
    for share in merged.shares:
        lacking = merged.table.rows - share.rows
        factors = merged.labels.count(share.label)
        if not lacking and not every_part:
            continue
        own = f", {share.alone:,} of them in no other" if share.alone else ""
        rest = f"; its factors are missing in the {count(lacking, 'other')}" if lacking and factors else ""
        yield f"{share.label}: {count(factors, 'factor')}, {count(share.rows, 'row')}{own}{rest}."


def _describe_reason(each: LeftOut) -> str:
    if each.same:
        return f"{each.like} has the same name and the same values"
    if each.correlation is None:
        return "it has no correlation with any other on any day, and RD-Agent's rule keeps none such"
    return (
        f"its correlation with {each.like} is {each.correlation:.4f}, and RD-Agent's rule keeps what is below "
        f"{DUPLICATE_FROM}"
    )

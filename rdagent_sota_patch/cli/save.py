"""``rdagent-sota save``."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from rdagent_sota_patch.cli.output import clean, out, print_json
from rdagent_sota_patch.factor_table.saving import require_parquet_name, save_source
from rdagent_sota_patch.factor_table.sources import source_of
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def run_save(log: Path, target: Path, as_json: bool) -> None:
    """Write a run's accepted factors to ``target``; rebuilds the table with RD-Agent if it is gone."""
    require_parquet_name(target)
    source = source_of(find_log(log, log_roots(os.environ)), load_settings().sota_workspace_root)
    path = source.table
    if path is None:
        from rdagent_sota_patch.plugin.rebuild import rebuild_table

        path = rebuild_table(source)
    table = save_source(source, path, target)
    if as_json:
        document = asdict(table)
        document["path"] = str(target.absolute())
        document["start"], document["end"] = table.start.isoformat(), table.end.isoformat()
        document["loop"] = source.loop
        del document["stat"], document["canonical"], document["coverage"]
        print_json(document)
        return
    out.print(
        f"{len(table.names)} factors of loop {source.loop}: {clean(', '.join(table.names))}\n"
        f"{table.rows:,} rows, {table.start}…{table.end} → {clean(target)}",
        markup=False,
        soft_wrap=True,
    )

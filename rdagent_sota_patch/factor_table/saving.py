"""Write the accepted factors of a run to a factor file, with all that is known of them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SettingsError, SourceError
from rdagent_sota_patch.factor_table.alignment import Part
from rdagent_sota_patch.factor_table.merging import Merged, merge_tables
from rdagent_sota_patch.factor_table.provenance import Provenance, save_table
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table
from rdagent_sota_patch.hashing import hash_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rdagent_sota_patch.factor_table.provenance import FactorOrigin
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session


def save_source(source: Source, table: Path, target: Path) -> FactorTable:
    """Write the factors of a run's ``source`` to ``target``, atomically.

    Args:
        source: The factors, of a log.
        table: Their table: ``source.table``, or what was rebuilt in its place.
        target: The factor file; replaced if it exists.

    Raises:
        SotaError: The table cannot be used, or the file not written.
    """
    session, experiment = require_log(source)
    read = read_factor_table(table)
    return save_table(
        read,
        target,
        Provenance(
            task_id=session.task_id,
            loop=experiment.loop,
            snapshot=str(session.snapshot),
            factors=source.describe_factors(read.names),
            metrics=source.metrics,
        ),
    )


def save_sources(sources: Sequence[tuple[Source, Path]], target: Path) -> Merged:
    """Write the factors of several runs to ``target``, atomically; see `merge_tables`.

    A factor whose name another one has already is called ``NAME_run2`` if it is of the second run.

    Args:
        sources: Each run's factors and their table, as for `save_source`; the order matters.
        target: The factor file; replaced if it exists.

    Raises:
        SotaError: A table cannot be used, the runs have hardly a row in common, or the file cannot be written.
    """
    parts = []
    for number, (source, path) in enumerate(sources, start=1):
        session, _ = require_log(source)
        table = read_factor_table(path)
        origins = trace_factors(source, table.names)
        parts.append(Part(table, table.names, origins, f"run {number}, {session.task_id}", f"run{number}"))
    return merge_tables(parts, target)


def trace_factors(source: Source, names: Sequence[str]) -> tuple[FactorOrigin, ...]:
    """What is known of each column of a run's table, with the run, the factor's workspace and its code's hash."""
    session, experiment = require_log(source)
    workspaces = {record.loop: record.workspace for record in (*experiment.based_on, experiment)}

    def trace(origin: FactorOrigin) -> FactorOrigin:
        workspace = None if origin.loop is None else workspaces.get(origin.loop)
        return replace(
            origin,
            task_id=session.task_id,
            workspace=None if workspace is None else str(workspace),
            code_sha256=None if origin.code is None else hash_text(origin.code),
        )

    return tuple(map(trace, source.describe_factors(names)))


def require_log(source: Source) -> tuple[Session, ExperimentRecord]:
    """The session and the accepted experiment of a source that is a run's log.

    Raises:
        SourceError: ``not-a-log``.
    """
    if source.session is None or source.experiment is None:
        raise SourceError("not-a-log", f"{source.path} is not a run's log.", "Name the log folder of a run.")
    return source.session, source.experiment


_PARQUET = ("", ".parquet", ".pq")


def require_parquet_name(target: Path) -> None:
    """Refuse a factor file that is called as if it had another format than the one that is written and read.

    Raises:
        SettingsError: ``unknown-format``.
    """
    if target.suffix.lower() not in _PARQUET:
        raise SettingsError(
            "unknown-format",
            f"{target} ends in {target.suffix}, and a factor file is parquet, which LOAD_SOTA_FACTORS reads as it "
            "was.",
            f"Name it {target.with_suffix('.parquet').name}.",
        )


def require_writable(
    target: Path, hint: str = "SAVE_SOTA_FACTORS is on: set SOTA_FACTORS_PATH to a file in a folder of yours."
) -> None:
    """Make sure that a factor file can be written, before the work that ends in it.

    Args:
        target: The file.
        hint: What to do where it cannot.

    Raises:
        SettingsError: ``unknown-format``, or its folder does not exist or must not be written to.
    """
    require_parquet_name(target)
    folder = target.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(
            "cannot-write",
            f"{target} cannot be written: {folder} is not a folder that can be written to.",
            hint,
        )

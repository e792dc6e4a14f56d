"""Write the accepted factors of a run to a factor file, with all that is known of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SettingsError, SourceError
from rdagent_sota_patch.factor_table.provenance import Provenance, save_table
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.factor_table.sources import Source


def save_source(source: Source, table: Path, target: Path) -> FactorTable:
    """Write the factors of a run's ``source`` to ``target``, atomically.

    Args:
        source: The factors, of a log.
        table: Their table: ``source.table``, or what was rebuilt in its place.
        target: The factor file; replaced if it exists.

    Raises:
        SotaError: The table cannot be used, or the file not written.
    """
    if source.session is None or source.experiment is None:
        raise SourceError("not-a-log", f"{source.path} is not a run's log.", "Name the log folder of a run.")
    read = read_factor_table(table)
    return save_table(
        read,
        target,
        Provenance(
            task_id=source.session.task_id,
            loop=source.experiment.loop,
            snapshot=str(source.session.snapshot),
            factors=source.describe_factors(read.names),
            metrics=source.metrics,
        ),
    )


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


def require_writable(target: Path) -> None:
    """Make sure that a factor file can be written, before the work that ends in it.

    Raises:
        SettingsError: ``unknown-format``, or its folder does not exist or must not be written to.
    """
    require_parquet_name(target)
    folder = target.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SettingsError(
            "cannot-write",
            f"SAVE_SOTA_FACTORS is on, but {target} cannot be written: {folder} is not a folder that can be "
            "written to.",
            "Set SOTA_FACTORS_PATH to a file in a folder of yours.",
        )

"""The SOTA factors in force in this process: found, checked and made ready once, then only looked up."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent.log import rdagent_logger as logger

from rdagent_sota_patch.alpha_switch import settle_alpha
from rdagent_sota_patch.environment import fix_settings
from rdagent_sota_patch.errors import SnapshotError, SotaError, SourceError, TableError
from rdagent_sota_patch.factor_table.canonical import write_canonical
from rdagent_sota_patch.factor_table.checks import check_segments
from rdagent_sota_patch.factor_table.combining import FeatureSet, combine_features
from rdagent_sota_patch.factor_table.sources import Source, find_source
from rdagent_sota_patch.factor_table.table import FactorTable, read_factor_table
from rdagent_sota_patch.plugin.host import check_market, model_segments, table_store
from rdagent_sota_patch.plugin.own_log import own_log
from rdagent_sota_patch.plugin.seal import require_sealed_source
from rdagent_sota_patch.settings import Settings, SourceKind, load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rdagent_sota_patch.factor_table.segments import Segments

_PINNED = "RDAGENT_SOTA_FINGERPRINT"
"""Set for the child processes of a run, so that all of its loops use one table."""


@dataclass(frozen=True, slots=True, eq=False)
class ActiveSota:
    """The SOTA factors that every model loop of this run is fed.

    Attributes:
        table: The table as it is copied into workspaces: ("feature", name) columns, (datetime, instrument)
            index, sorted.
        use_alpha: Whether RD-Agent's Alpha features come beside them.
    """

    source: Source
    table: FactorTable
    segments: Segments
    use_alpha: bool

    def features(self, base_features: Mapping[str, str]) -> FeatureSet:
        """The features of a model whose experiment brings ``base_features`` (name to Qlib expression)."""
        return combine_features(base_features, self.table.names, self.use_alpha)


@functools.cache
def active_sota() -> ActiveSota | None:
    """What this process feeds its model loops, settled at the first call; None when no ``LOAD_SOTA_*`` is on.

    Raises:
        SotaError: Under ``SOTA_STRICT``, anything that keeps the factors from being used.
    """
    settings = load_settings()
    if settings.source is None:
        return None
    try:
        return prepare_sota(settings)
    except SotaError as error:
        if settings.sota_strict:
            raise
        logger.warning(
            f"SOTA factors cannot be used; SOTA_STRICT is off, so RD-Agent goes on without them.\n{error}"
        )
        return None


def prepare_sota(settings: Settings) -> ActiveSota:
    """Find, rebuild if it is gone, check and make ready the factors that ``settings`` name.

    Raises:
        SotaError: They cannot be used; says all that is wrong.
    """
    source = _find_source(settings)
    if source.table is None:
        from rdagent_sota_patch.plugin.rebuild import rebuild_table

        logger.warning(source.describe_loss())
        path = rebuild_table(source)
    else:
        path = source.table
    table = _load(path, source)
    if settings.sota_seal_from is not None:
        require_sealed_source(source, table, settings.sota_seal_from)
    segments = model_segments()
    findings = check_segments(table, segments) + check_market(table, segments)
    if findings.errors:
        raise TableError.of(findings.errors)
    for notice in (*source.notices(), *findings.notices):
        logger.warning(str(notice))
    _pin(source, table)
    settle_alpha(settings.use_alpha_factors)
    return ActiveSota(source, table, segments, settings.use_alpha_factors)


def _find_source(settings: Settings) -> Source:
    """``find_source``, and the log lines that people look for when it does not lead to a table."""
    try:
        source = find_source(settings, exclude=(own_log(),))
    except TableError as error:
        logger.error(f"Failed to load SOTA factors from {settings.factor_file}: {error}")
        raise
    except (SourceError, SnapshotError) as error:
        if settings.source is SourceKind.LOG and error.slug == "log-unreadable":
            logger.error(f"Failed to find workspace from log: {error}")
        elif settings.source is SourceKind.LOG and error.slug != "table-gone":
            logger.warning(f"No workspace found in log path: {settings.sota_log_path}")
        raise
    assert source is not None
    return source


def _load(path: Path, source: Source) -> FactorTable:
    try:
        table = read_factor_table(path)
        return table if table.canonical else _convert(table)
    except TableError as error:
        place = "workspace" if source.workspace else path
        logger.error(f"Failed to load SOTA factors from {place}: {error}")
        raise


def _convert(table: FactorTable) -> FactorTable:
    target = table_store() / f"{table.fingerprint.rpartition(':')[2]}.parquet"
    if not target.exists():
        write_canonical(table.path, target)
    converted = read_factor_table(target)
    if converted.fingerprint != table.fingerprint:
        raise TableError(
            "table-store-changed",
            f"{target} does not hold what {table.path} does.",
            f"Delete {target}; it is made again from the table.",
        )
    return converted


def _pin(source: Source, table: FactorTable) -> None:
    pinned = os.environ.get(_PINNED)
    if pinned not in (None, table.fingerprint):
        raise SourceError(
            "source-changed",
            f"The SOTA factors at {source.path} changed during the run: {pinned} then, {table.fingerprint} now.",
            "Save the set you want with `rdagent-sota save` and name that file (LOAD_SOTA_FACTORS).",
        )
    os.environ[_PINNED] = table.fingerprint
    if source.session is not None:
        fix_settings(os.environ, sota_log_path=str(source.session.snapshot))

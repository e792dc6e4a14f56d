"""Find the SOTA factors that the settings name: from a log, a workspace or a saved file, never from elsewhere."""

from __future__ import annotations

import ast
import csv
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem, SettingsError, SourceError
from rdagent_sota_patch.factor_table.provenance import FactorOrigin, read_provenance
from rdagent_sota_patch.factor_table.reading import folder_given
from rdagent_sota_patch.sessions.locate import locate_sota
from rdagent_sota_patch.sessions.logs import find_log, log_roots
from rdagent_sota_patch.sessions.workspaces import find_workspace
from rdagent_sota_patch.settings import Settings, SourceKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Factor, Session

TABLE_NAME = "combined_factors_df.parquet"
"""The file that RD-Agent's factor runner leaves in a workspace (``factor_runner.py``)."""

METRICS_NAME = "qlib_res.csv"
"""The file in which ``read_exp_res.py`` leaves the back-test's metrics."""

_NO_METRICS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where the SOTA factors come from.

    Attributes:
        path: The log folder, workspace folder or file that was named, absolute.
        table: The factor table; None when it is gone and has to be rebuilt from ``experiment``.
        metrics: Metrics of the source's own back-test, empty when it recorded none.
        origins: What is known of each factor, by experiments oldest first.
        tried: Every place in which the table was looked for.
        task_id: The run that mined them; None where it is not known.
    """

    kind: SourceKind
    path: Path
    table: Path | None
    session: Session | None = None
    experiment: ExperimentRecord | None = None
    metrics: Mapping[str, float] = field(default_factory=lambda: _NO_METRICS)
    origins: tuple[FactorOrigin, ...] = ()
    tried: tuple[Path, ...] = ()
    task_id: str | None = None

    @property
    def loop(self) -> int | None:
        """RD-Agent's index of the loop that the factors come from."""
        return self.experiment.loop if self.experiment else None

    @property
    def workspace(self) -> Path | None:
        """The workspace that holds the table."""
        return self.table.parent if self.table and self.kind is not SourceKind.FILE else None

    def describe_loss(self) -> str:
        """Which table is not there: the recorded one, or that of a log which names no workspace."""
        if self.tried:
            return f"SOTA factors file not found: {self.tried[0] / TABLE_NAME}"
        return f"No workspace found in log path: {self.path}"

    def notices(self) -> tuple[Problem, ...]:
        """What was passed over on the way to these factors."""
        skipped = self.session.skipped if self.session else ()
        return tuple(Problem("snapshot-skipped", f"{path}: {reason}") for path, reason in skipped)

    def describe_factors(self, names: Sequence[str]) -> tuple[FactorOrigin, ...]:
        """What is known of each column of the table, in the given order.

        A column takes its origin from the factor of that name (the last one, as ``factor_runner.py`` keeps the
        last of duplicated columns), else from the only factor whose code spells the name as a string.
        """
        by_name = {origin.name: origin for origin in self.origins}
        unknown = {name for name in names if name not in by_name}
        by_code = _writers(self.origins, unknown) if unknown else {}
        return tuple(by_name.get(name) or _only(by_code.get(name, ()), name) for name in names)


def find_source(settings: Settings, exclude: Iterable[Path] = ()) -> Source | None:
    """The source in force, or None when no ``LOAD_SOTA_*`` is on.

    Args:
        settings: The user's settings.
        exclude: Log folders that ``latest`` must not mean, such as the running one.

    Raises:
        SettingsError: The source in force lacks its path.
        SourceError: It cannot be found, or holds no accepted factors.
        SnapshotError: The log was altered.
    """
    missing = settings.missing_paths()
    if missing:
        raise SettingsError.of(missing)
    if settings.source is SourceKind.LOG and settings.sota_log_path is not None:
        session = find_log(settings.sota_log_path, log_roots(os.environ), exclude=tuple(exclude))
        return source_of(session, settings.sota_workspace_root)
    if settings.source is SourceKind.WORKSPACE and settings.sota_workspace_path is not None:
        return _from_workspace(settings.sota_workspace_path)
    if settings.source is SourceKind.FILE:
        return _from_file(settings.factor_file)
    return None


def source_of(session: Session, roots: Sequence[Path] = ()) -> Source:
    """The SOTA factors of one run.

    Args:
        session: The run.
        roots: Further folders in which its workspaces may be (``SOTA_WORKSPACE_ROOT``).

    Raises:
        SourceError: It accepted none, or the table is gone and cannot be rebuilt.
    """
    experiment = locate_sota(session)
    workspace, tried = (
        find_workspace(experiment.workspace, session.log, roots, holding=TABLE_NAME)
        if experiment.workspace is not None
        else (None, ())
    )
    source = Source(
        kind=SourceKind.LOG,
        path=session.log.absolute(),
        table=workspace / TABLE_NAME if workspace else None,
        session=session,
        experiment=experiment,
        metrics=experiment.metrics,
        origins=origins_of(experiment),
        tried=tried,
        task_id=session.task_id,
    )
    if source.table is None:
        _require_code(source)
    return source


def origins_of(experiment: ExperimentRecord) -> tuple[FactorOrigin, ...]:
    """The factors that an experiment's table may hold: those it was built on, then its own."""
    return (*_origins_of_sota(experiment), *_own_origins(experiment))


def _own_origins(experiment: ExperimentRecord) -> tuple[FactorOrigin, ...]:
    return tuple(
        FactorOrigin(
            name=factor.name,
            description=factor.description,
            formulation=factor.formulation,
            variables=dict(factor.variables),
            code=factor.code,
            loop=record.loop,
        )
        for record in (*experiment.based_on, experiment)
        for factor in _implemented(record)
    )


def _origins_of_sota(experiment: ExperimentRecord) -> Iterable[FactorOrigin]:
    """The SOTA factors that a ``fin_quant`` run began with, as the plugin recorded them with its experiments."""
    recorded = (experiment.sota_source or {}).get("factors")
    for factor in recorded if isinstance(recorded, list) else ():
        if isinstance(factor, dict) and isinstance(factor.get("name"), str):
            yield FactorOrigin(
                name=factor["name"],
                description=str(factor.get("description") or ""),
                formulation=str(factor.get("formulation") or ""),
                code=factor["code"] if isinstance(factor.get("code"), str) else None,
            )


def _from_workspace(path: Path) -> Source:
    if not path.exists():
        raise SourceError(
            "workspace-not-found",
            f"SOTA workspace path not found: {path}",
            "Set SOTA_WORKSPACE_PATH to a folder that holds combined_factors_df.parquet.",
        )
    if not path.is_dir():
        raise SourceError(
            "not-a-workspace",
            f"SOTA_WORKSPACE_PATH names a file, not a folder: {path}",
            "Name the folder; for a factor file use LOAD_SOTA_FACTORS and SOTA_FACTORS_PATH.",
        )
    table = path.absolute() / TABLE_NAME
    if table.is_dir():
        raise folder_given(table)
    if not table.is_file():
        raise SourceError(
            "table-not-found",
            f"SOTA factors file not found: {table}",
            "A run taken from RD-Agent's cache leaves no table; name its log instead (LOAD_SOTA_FROM_LOG), "
            "from which the table can be rebuilt.",
        )
    return Source(
        SourceKind.WORKSPACE,
        path.absolute(),
        table,
        metrics=_read_metrics(path / METRICS_NAME),
        tried=(table,),
    )


def _from_file(path: Path) -> Source:
    path = path.absolute()
    if path.is_dir():
        raise folder_given(path)
    if not path.is_file():
        raise SourceError(
            "table-not-found",
            f"SOTA factors file not found: {path}",
            "Write it with `rdagent-sota save LOG --out FILE`, or in fin_factor with SAVE_SOTA_FACTORS=true.",
        )
    provenance = read_provenance(path)
    if provenance is None:
        return Source(SourceKind.FILE, path, path, tried=(path,))
    return Source(
        SourceKind.FILE,
        path,
        path,
        metrics=provenance.metrics,
        origins=provenance.factors,
        tried=(path,),
        task_id=provenance.task_id or None,
    )


def _require_code(source: Source) -> None:
    experiment = source.experiment
    assert experiment is not None
    missing = [
        factor.name
        for record in (*experiment.based_on, experiment)
        for factor in _implemented(record)
        if not factor.code
    ]
    began_with_sota = experiment.sota_source is not None
    if not missing and not began_with_sota and source.origins:
        return
    places = "\n".join(f"    {place}" for place in source.tried) or "    (the session names no workspace)"
    why = (
        f"the session holds no code for {', '.join(missing)}"
        if missing
        else "it was made on top of another run's SOTA factors, whose table it does not hold"
        if began_with_sota
        else "the session holds no factor code"
    )
    raise SourceError(
        "table-gone",
        f"{source.describe_loss()}. The factor table of loop {experiment.loop} of {source.path} is gone, and cannot be "
        f"rebuilt: {why}. Looked for it in:\n{places}",
        "If the workspaces were moved, set SOTA_WORKSPACE_ROOT to the folder that holds them.",
    )


def _implemented(record: ExperimentRecord) -> Iterable[Factor]:
    return (factor for factor in record.factors if factor.implemented)


def _writers(origins: Iterable[FactorOrigin], names: set[str]) -> Mapping[str, list[FactorOrigin]]:
    """The factors whose code holds a name as a string; each code is parsed once, and never run."""
    found: dict[str, list[FactorOrigin]] = {}
    spelled: dict[str, set[str]] = {}
    for origin in origins:
        if not origin.code:
            continue
        if origin.code not in spelled:
            spelled[origin.code] = _strings(origin.code) & names
        for name in spelled[origin.code]:
            found.setdefault(name, []).append(origin)
    return found


def _only(writers: Sequence[FactorOrigin], name: str) -> FactorOrigin:
    return replace(writers[0], name=name) if len(writers) == 1 else FactorOrigin(name=name)


def _strings(code: str) -> set[str]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


def _read_metrics(path: Path) -> Mapping[str, float]:
    """Metrics of a workspace's ``qlib_res.csv``: two columns, name and value; empty without that file."""
    if not path.is_file():
        return _NO_METRICS
    metrics = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            if len(row) == 2 and row[0]:
                try:
                    metrics[row[0]] = float(row[1])
                except ValueError:
                    metrics[row[0]] = math.nan
    return MappingProxyType(metrics)

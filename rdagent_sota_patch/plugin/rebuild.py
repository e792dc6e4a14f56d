"""Make a factor table again that is gone, from the factor code that the session holds.

The accepted experiments are put together again and sent through RD-Agent's own ``QlibFactorRunner.develop``, whose
back-test alone is left out, so that the table is what RD-Agent itself would have fed
(``rdagent/scenarios/qlib/developer/factor_runner.py``: run, deduplicate, join, drop incomplete rows, sort).
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.core.exception import FactorEmptyError
from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.factors.copying import copy_table
from rdagent_sota_patch.factors.sources import TABLE_NAME, Source
from rdagent_sota_patch.plugin.host import factor_data_folder, table_store
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.plugin.synthetic import (
    coder_feedback,
    make_base,
    make_hypothesis,
    make_placeholder,
    metrics_series,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from rdagent_sota_patch.sessions.records import ExperimentRecord

_OUTPUT_SHOWN = 2000
"""Characters of a failed factor's output that are shown."""


class ExecutedFactorWorkspace(FactorFBWorkspace):
    """A factor implementation that was already executed."""

    def __init__(self, task: FactorTask, outcome: tuple[str, pd.DataFrame | None]) -> None:
        super().__init__(target_task=task)
        self._outcome = outcome

    def execute(self, data_type: str = "Debug") -> tuple[str, pd.DataFrame | None]:
        """What the execution gave."""
        return self._outcome


def rebuild_table(source: Source) -> Path:
    """Run the accepted factors' code and return the table it makes.

    The table is kept, named by the code and the market data it came from, and taken from there the next time.

    Raises:
        SourceError: Nobody vouches for the code, the market data is not there, or a factor's code fails.
    """
    experiment = source.experiment
    assert experiment is not None
    require_rebuildable(source)
    target = table_store() / f"rebuilt-{_recipe(experiment)}.parquet"
    if target.exists():
        logger.info(f"The factor table is gone; taken as rebuilt before: {target}")
        return target
    logger.info(
        f"The factor table of loop {experiment.loop} is gone (looked in {', '.join(map(str, source.tried))}); "
        f"rebuilding it from the code of {len(source.origins)} factors."
    )
    restored = _restore_all(experiment)
    try:
        copy_table(_develop_without_backtest(restored), target, durable=True)
    finally:
        for other in (restored, *restored.based_experiments):
            if other.experiment_workspace is not None:
                other.experiment_workspace.clear()
    return target


def _recipe(experiment: ExperimentRecord) -> str:
    folder = factor_data_folder()
    data = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    codes = [
        [(factor.name, factor.code) for factor in record.factors if factor.implemented]
        + sorted(record.base_feature_codes.items())
        for record in (*experiment.based_on, experiment)
    ]
    return hashlib.sha256(json.dumps([data, codes]).encode()).hexdigest()[:32]


def _restore_all(experiment: ExperimentRecord) -> QlibFactorExperiment:
    """The experiment and those it was built on, live and executed."""
    records = (*experiment.based_on, experiment)
    workspaces = {
        (row, column): _restore_workspace(
            factor.name, factor.description, factor.formulation, factor.code or ""
        )
        for row, record in enumerate(records)
        for column, factor in enumerate(record.factors)
        if factor.implemented
    }
    try:
        executed = dict(zip(workspaces, _execute_all(list(workspaces.values())), strict=True))
    finally:
        for workspace in workspaces.values():
            workspace.clear()
    restored = [_restore(record, row, executed) for row, record in enumerate(records)]
    before = restored[:-1]
    restored[-1].based_experiments = [make_placeholder({}), *before] if before else [make_base()]
    return restored[-1]


def _restore(
    record: ExperimentRecord, row: int, executed: dict[tuple[int, int], ExecutedFactorWorkspace]
) -> QlibFactorExperiment:
    columns = [column for column, factor in enumerate(record.factors) if factor.implemented]
    workspaces = [executed[row, column] for column in columns]
    experiment = QlibFactorExperiment(
        sub_tasks=[workspace.target_task for workspace in workspaces],
        hypothesis=make_hypothesis(f"the factors of loop {record.loop}"),
    )
    experiment.sub_workspace_list = workspaces
    experiment.prop_dev_feedback = coder_feedback(True for _ in workspaces)
    experiment.base_features = dict(record.base_features)
    experiment.base_feature_codes = dict(record.base_feature_codes)
    experiment.result = metrics_series(record.metrics)
    return experiment


def _restore_workspace(name: str, description: str, formulation: str, code: str) -> FactorFBWorkspace:
    workspace = FactorFBWorkspace(target_task=FactorTask(name, description, formulation))
    workspace.inject_files(**{"factor.py": code})
    return workspace


def _execute_all(workspaces: list[FactorFBWorkspace]) -> list[ExecutedFactorWorkspace]:
    """Execute every factor on the full market data, ``MULTI_PROC_N`` at a time, each in a process of its own."""
    outcomes: list[tuple[str, pd.DataFrame | None]] = []
    with (
        Progress(
            TextColumn("Rebuilding SOTA factors"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[factor]}"),
            console=Console(stderr=True),
        ) as progress,
        ThreadPoolExecutor(max_workers=max(1, RD_AGENT_SETTINGS.multi_proc_n)) as pool,
    ):
        bar = progress.add_task("rebuild", total=len(workspaces), factor="")
        futures = [pool.submit(workspace.execute, "All") for workspace in workspaces]
        for workspace, future in zip(workspaces, futures, strict=True):
            outcomes.append(future.result())
            progress.update(bar, advance=1, factor=workspace.target_task.factor_name)
    failed = [
        f"{workspace.target_task.factor_name}: {message[-_OUTPUT_SHOWN:]}"
        for workspace, (message, frame) in zip(workspaces, outcomes, strict=True)
        if frame is None
    ]
    if failed:
        raise SourceError(
            "rebuild-failed",
            "The factor table is gone, and running its factors' code again failed:\n" + "\n".join(failed),
            "Correct the cause (often missing market data), or name a saved factor file (LOAD_SOTA_FACTORS).",
        )
    return [
        ExecutedFactorWorkspace(workspace.target_task, outcome)
        for workspace, outcome in zip(workspaces, outcomes, strict=True)
    ]


def _develop_without_backtest(experiment: QlibFactorExperiment) -> Path:
    workspace = experiment.experiment_workspace

    def skip_backtest(*args: Any, **kwargs: Any) -> tuple[pd.Series, str]:
        return metrics_series({}), ""

    workspace.execute = skip_backtest
    try:
        QlibFactorRunner.develop.__wrapped__(QlibFactorRunner(None), experiment)
    except FactorEmptyError as error:
        raise SourceError("rebuild-failed", f"RD-Agent made no table of the factors: {error}") from error
    table: Path = workspace.workspace_path / TABLE_NAME
    return table

"""Make a factor table again that is gone, from the factor code that the session holds.

The code is run confined, on all files of the data folder. What it gives is put together again into the accepted
experiments, and these are sent through RD-Agent's own ``QlibFactorRunner.develop``, which then has only to join: its
back-test is left out. So the table is what RD-Agent itself would have fed
(``rdagent/scenarios/qlib/developer/factor_runner.py``: run, deduplicate, join, drop incomplete rows, sort).
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdagent.components.coder.factor_coder.config import FACTOR_COSTEER_SETTINGS
from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.core.exception import FactorEmptyError
from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rdagent_sota_patch.errors import BundleError, SotaError, SourceError
from rdagent_sota_patch.factor_table.canonical import copy_table
from rdagent_sota_patch.factor_table.sources import TABLE_NAME, Source
from rdagent_sota_patch.plugin.host import factor_data_folder, table_store
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.plugin.synthetic import (
    coder_feedback,
    make_base,
    make_hypothesis,
    make_placeholder,
    metrics_series,
)
from rdagent_sota_patch.sandbox.factors import run_factor
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.market import read_market
from rdagent_sota_patch.sandbox.probe import what_confines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd

    from rdagent_sota_patch.sessions.records import ExperimentRecord


@dataclass(frozen=True, slots=True)
class _Code:
    """The code of one factor."""

    name: str
    description: str
    formulation: str
    text: str


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
    codes = {(row, column): code for row, record in enumerate(records) for column, code in _codes_of(record)}
    executed = _execute_all(codes)
    restored = [_restore(record, row, executed) for row, record in enumerate(records)]
    before = restored[:-1]
    restored[-1].based_experiments = [make_placeholder({}), *before] if before else [make_base()]
    return restored[-1]


def _codes_of(record: ExperimentRecord) -> Iterator[tuple[int, _Code]]:
    """What RD-Agent runs for an experiment's table, in its order: the factors, then base features as code."""
    factors = [factor for factor in record.factors if factor.implemented]
    codes = [_Code(each.name, each.description, each.formulation, each.code or "") for each in factors]
    codes += [_Code(name, "", "", code) for name, code in record.base_feature_codes.items()]
    return iter(enumerate(codes))


def _restore(
    record: ExperimentRecord, row: int, executed: Mapping[tuple[int, int], ExecutedFactorWorkspace]
) -> QlibFactorExperiment:
    workspaces = [executed[row, column] for column, _ in _codes_of(record)]
    experiment = QlibFactorExperiment(
        sub_tasks=[workspace.target_task for workspace in workspaces],
        hypothesis=make_hypothesis(f"the factors of loop {record.loop}"),
    )
    experiment.sub_workspace_list = workspaces
    experiment.prop_dev_feedback = coder_feedback(True for _ in workspaces)
    experiment.base_features = dict(record.base_features)
    experiment.result = metrics_series(record.metrics)
    return experiment


def _execute_all(codes: Mapping[tuple[int, int], _Code]) -> dict[tuple[int, int], ExecutedFactorWorkspace]:
    """Run every factor confined on the data folder, ``MULTI_PROC_N`` at a time.

    What lies beside ``daily_pv.h5`` is given as well, and ends on the same day.

    Raises:
        SourceError: ``rebuild-failed``, for all that failed.
        BundleError: ``market-data-unreadable``, ``confinement-failed``.
    """
    notice = what_confines().notice()
    if notice is not None:
        logger.warning(str(notice))
    # Whose code is not vouched for, `require_rebuildable` has refused.
    with _progress(len(codes)) as report, Jail(trusted=True) as jail:
        market = read_market(factor_data_folder(), jail=jail)
        for notice in market.find_notices():
            logger.warning(str(notice))
        folder = market.as_one()

        def execute(code: _Code) -> pd.DataFrame | SotaError:
            try:
                return run_factor(code.text, folder, _limits(), name=code.name, jail=jail).values
            except BundleError as error:
                return error

        with ThreadPoolExecutor(max_workers=max(1, RD_AGENT_SETTINGS.multi_proc_n)) as pool:
            outcomes = []
            for code, outcome in zip(codes.values(), pool.map(execute, codes.values()), strict=True):
                outcomes.append(outcome)
                report(code.name)
    failed = [str(outcome) for outcome in outcomes if isinstance(outcome, SotaError)]
    if failed:
        raise SourceError(
            "rebuild-failed",
            "The factor table is gone, and running its factors' code again failed:\n" + "\n".join(failed),
            "Correct the cause (often missing market data), or name a saved factor file (LOAD_SOTA_FACTORS).",
        )
    return {
        key: ExecutedFactorWorkspace(FactorTask(code.name, code.description, code.formulation), ("", outcome))
        for (key, code), outcome in zip(codes.items(), outcomes, strict=True)
        if not isinstance(outcome, SotaError)
    }


def _limits() -> Limits:
    """RD-Agent's own bound of time; it has none of memory, so what the machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)
    return Limits(seconds=FACTOR_COSTEER_SETTINGS.file_based_execution_timeout, memory_mb=memory)


@contextmanager
def _progress(count: int) -> Iterator[Callable[[str], None]]:
    columns = (
        TextColumn("Rebuilding SOTA factors"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[factor]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("rebuild", total=count, factor="")
        yield lambda name: progress.update(bar, advance=1, factor=name)


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

"""What the plugin adds to one model loop, against copying the table's file.

Everything of ``QlibModelRunner.develop`` is real but the back-test, in whose place stands a result. So the loop on SOTA
factors less the same loop without them is what the plugin does: key, synthetic experiment, copy, records.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
import time
from datetime import date
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare, differences
from tests.benchmarks.factor_table import PREPARED_NAME, TABLE_NAME
from tests.benchmarks.memory import begin_peak, peak
from tests.benchmarks.processes import run_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdagent_sota_patch.factor_table.table import FactorTable

MODULE = "model_loop"
_ROUNDS = 9
_UPSTREAM_ROUNDS = 3
_CONFIGS = {
    "sota": ["conf_sota_factors_model.yaml 40"],
    "upstream": ["conf_sota_factors_model.yaml 40"],
    "plain": ["conf_baseline_factors_model.yaml None"],
    "copy": [],
}
"""The back-tests that each mode must have asked for: Qlib's configuration and the number of features."""


def measure(folder: Path) -> list[Comparison]:
    """Measure with the table in ``folder``, which was prepared before."""
    took: dict[str, list[tuple[float, float]]] = {"sota": [], "plain": [], "copy": [], "upstream": []}
    for number in range(_ROUNDS):
        for mode, values in took.items():
            if mode != "upstream" or number < _UPSTREAM_ROUNDS:
                values.append(_run(mode, folder))
    seconds = {mode: [value for value, _ in values] for mode, values in took.items()}
    mb = {mode: [value for _, value in values] for mode, values in took.items()}
    added = differences(seconds["sota"], seconds["plain"])
    upstream = differences(seconds["upstream"], seconds["plain"][:_UPSTREAM_ROUNDS])
    return [
        compare(
            "added to a model loop, 2,000,000 x 20 / copying the file",
            "ms",
            [1e3 * value for value in added],
            [1e3 * value for value in seconds["copy"]],
            Limit(Bound.RATIO, 1.5),
        ),
        compare(
            "the same, extra peak memory",
            "MB",
            differences(mb["sota"], mb["plain"]),
            limit=Limit(Bound.AMOUNT, 100.0),
        ),
        compare(
            "the same by RD-Agent's own path / copying the file",
            "ms",
            [1e3 * value for value in upstream],
            [1e3 * value for value in seconds["copy"]],
        ),
        compare(
            "the same by RD-Agent's own path, extra peak memory",
            "MB",
            differences(mb["upstream"], mb["plain"][:_UPSTREAM_ROUNDS]),
        ),
    ]


def _run(mode: str, folder: Path) -> tuple[float, float]:
    """One loop in a process and a folder of its own, which is deleted afterwards."""
    place = folder / "loop"
    place.mkdir()
    try:
        seconds, mb = run_child(MODULE, [mode, folder], place)
    finally:
        shutil.rmtree(place)
    return seconds, mb


def in_force(table: FactorTable, *, alpha: bool = True) -> Any:
    """The factors of a table that was read, as a model stage has them."""
    from rdagent_sota_patch.factor_table.segments import Segments
    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.plugin.active import ActiveSota
    from rdagent_sota_patch.settings import SourceKind

    source = Source(
        SourceKind.WORKSPACE, table.path.parent, table.path, metrics=MappingProxyType({"IC": 0.05})
    )
    day = date(2015, 1, 5)
    return ActiveSota(source, table, Segments(day, day, day, day, day), alpha)


def make_experiment() -> Any:
    """A model experiment with code, ready for the runner."""
    from rdagent.components.coder.model_coder.model import ModelFBWorkspace, ModelTask
    from rdagent.scenarios.qlib.experiment.model_experiment import QlibModelExperiment
    from rdagent.utils.qlib import ALPHA20

    task = ModelTask(
        name="Net",
        description="a small network",
        architecture="one layer",
        hyperparameters={"width": "16"},
        training_hyperparameters={"n_epochs": "2"},
        formulation="y = f(x)",
        variables={},
        model_type="Tabular",
    )
    workspace = ModelFBWorkspace(target_task=task)
    workspace.inject_files(**{"model.py": "model_cls = None\n" * 40})
    experiment = QlibModelExperiment(sub_tasks=[task])
    experiment.sub_workspace_list = [workspace]
    experiment.base_features = ALPHA20
    return experiment


def replace_back_test(
    configs: list[str], train: Callable[[Path, dict[str, str]], object] | None = None
) -> None:
    """Have a fixed result in place of Qlib's, its configurations noted, and what a training leaves, if one is given."""
    import pandas as pd
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    def execute(self: Any, qlib_config_name: str, run_env: dict[str, Any]) -> tuple[Any, str]:
        configs.append(f"{qlib_config_name} {run_env.get('num_features')}")
        if train is not None:
            train(self.workspace_path, {})
        return pd.Series({"IC": 0.1}), ""

    QlibFBWorkspace.execute = execute


def _train(forging: list[float], workspace: Path, _: dict[str, str]) -> None:
    start = time.perf_counter()
    from tests.mlruns.forged_recorder import alpha_of, write_recorder

    write_recorder(workspace, alpha_of(workspace))
    forging.append(time.perf_counter() - start)


def _take(mode: str, folder: Path) -> tuple[float, float]:
    """Seconds and MB of one loop, or of copying the file in a process that was made ready in the same way.

    The same way, because in a virtual machine new memory costs twice as much once the host took it back.
    """
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    from rdagent_sota_patch.plugin import model_runner
    from rdagent_sota_patch.plugin.synthetic import make_placeholder, make_sota_experiment
    from rdagent_sota_patch.plugin.traits import installed_traits
    from rdagent_sota_patch.settings import load_settings

    sota = in_force(pickle.loads((folder / PREPARED_NAME).read_bytes()))
    configs: list[str] = []
    # RD-Agent's own path asks for no training: nothing compares what it leaves. Forging one is not a part of the loop.
    forging: list[float] = []
    replace_back_test(configs, partial(_train, forging) if mode == "sota" else None)
    experiment = make_experiment()
    runner: Any = model_runner.SotaModelRunner(None) if mode == "sota" else QlibModelRunner(None)
    if mode == "upstream":
        whole = make_sota_experiment(sota, whole=True)
        experiment.based_experiments = [make_placeholder(sota.source.metrics), whole]
    # A run's pre-flight has read these before the first loop.
    load_settings(), installed_traits().template
    with patch.object(model_runner, "active_sota", return_value=sota):
        before, start = begin_peak(), time.perf_counter()
        if mode == "copy":
            shutil.copyfile(sota.table.path, experiment.experiment_workspace.workspace_path / TABLE_NAME)
        else:
            runner.develop(experiment)
        took = time.perf_counter() - start - sum(forging), peak() - before
    assert configs == _CONFIGS[mode], configs
    if mode in ("sota", "copy"):
        copied = experiment.experiment_workspace.workspace_path / TABLE_NAME
        assert copied.read_bytes() == sota.table.path.read_bytes()
    return took


if __name__ == "__main__":
    _mode, _folder = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(_take(_mode, _folder)))

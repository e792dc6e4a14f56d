"""fin_quant's factor loops on top of the SOTA table; the back-test alone is stood in for."""

from __future__ import annotations

import inspect
import json
import pickle
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError, SourceError
from rdagent_sota_patch.factor_table.schema import read_names
from tests.mlruns.forged_recorder import write_recorder

Factory = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    # Upstream correlates a constant factor, too.
    "ignore:invalid value encountered in divide:RuntimeWarning",
)

KNOWN = {
    "IC": 0.05,
    "1day.excess_return_with_cost.annualized_return": 0.12,
    "1day.excess_return_with_cost.max_drawdown": -0.03,
}


@pytest.fixture
def runner(rdagent: Path, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The factor runner of a fin_quant run."""
    from rdagent.core.conf import RD_AGENT_SETTINGS
    from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner
    from rdagent.scenarios.qlib.experiment.quant_experiment import QlibQuantScenario

    from rdagent_sota_patch.plugin import factor_runner

    factor_runner.require_factor_runner(QlibFactorRunner(None))
    monkeypatch.setattr(RD_AGENT_SETTINGS, "multi_proc_n", 1)
    monkeypatch.setattr(factor_runner, "_measured", {})
    # Upstream forks a pool of processes for it; each day on its own is what it computes.
    monkeypatch.setattr(
        pd.core.groupby.DataFrameGroupBy,
        "parallel_apply",
        pd.core.groupby.DataFrameGroupBy.apply,
        raising=False,
    )
    return QlibFactorRunner(object.__new__(QlibQuantScenario))


@pytest.fixture
def in_force(mocker: MockerFixture) -> Callable[[Any], Any]:
    """Put SOTA factors in force."""
    from rdagent_sota_patch.plugin import factor_runner

    def run(sota: Any) -> Any:
        mocker.patch.object(factor_runner, "active_sota", return_value=sota)
        return sota

    return run


@pytest.fixture
def make_factors(make_experiment: Factory, table: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Make a ``QlibFactorExperiment`` whose factors were implemented, as fin_quant proposes it."""
    from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

    from rdagent_sota_patch.plugin.synthetic import coder_feedback, make_hypothesis

    def execute(self: Any, data_type: str = "Debug") -> tuple[str, pd.DataFrame]:
        index = pd.read_parquet(table).index
        name = self.target_task.factor_name
        values = np.random.default_rng(sum(map(ord, name))).normal(size=len(index))
        if name == "Copy":
            values = pd.read_parquet(table)[("feature", "Gap")].to_numpy()
        return "", pd.DataFrame({name: values}, index=index)

    # Running factor code is RD-Agent's affair, and the integration tests'.
    monkeypatch.setattr(FactorFBWorkspace, "execute", execute)

    def make(*names: str, based: tuple[Any, ...] = ()) -> Any:
        tasks = [FactorTask(name, f"about {name}", "x") for name in names]
        experiment = QlibFactorExperiment(tasks, hypothesis=make_hypothesis(f"{names} work"))
        experiment.sub_workspace_list = [FactorFBWorkspace(target_task=task) for task in tasks]
        experiment.prop_dev_feedback = coder_feedback(True for _ in tasks)
        experiment.base_features = {"KLEN": "$high-$low", "ROC60": "Ref($close, 60)/$close"}
        experiment.based_experiments = [QlibFactorExperiment(sub_tasks=[]), *based]
        return experiment

    return make


def names_in(experiment: Any) -> list[str]:
    return sorted(read_names(experiment.experiment_workspace.workspace_path / "combined_factors_df.parquet"))


def test_new_factors_join_the_sota_table(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """The back-test's table holds the SOTA factors, as they are, and the new one."""
    sota = in_force(make_sota(metrics=KNOWN))
    experiment = make_factors("New")
    placeholder = experiment.based_experiments[0]
    outcome = runner.develop(experiment)
    (call,) = backtest
    assert call["name"] == "conf_combined_factors.yaml"
    assert names_in(outcome) == ["Gap", "KLEN", "New"]
    written = pd.read_parquet(outcome.experiment_workspace.workspace_path / "combined_factors_df.parquet")
    original = pd.read_parquet(sota.table.path)
    pd.testing.assert_frame_equal(written[original.columns], original, check_freq=False)
    assert outcome.based_experiments == [placeholder]
    assert placeholder.result["1day.excess_return_with_cost.annualized_return"] == 0.12


def test_records_what_it_stood_on(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """Source and fingerprint stand in the workspace and, as plain data, in the session."""
    sota = in_force(make_sota(metrics=KNOWN))
    outcome = runner.develop(make_factors("New"))
    workspace = outcome.experiment_workspace.workspace_path
    usage = json.loads((workspace / "sota_source.json").read_text(encoding="utf-8"))
    assert usage["fingerprint"] == outcome.sota_source["fingerprint"] == sota.table.fingerprint
    assert usage["table_factors"] == sorted(usage["table_factors"]) == ["Gap", "KLEN", "New"]
    assert usage["proof"]["status"] == "proven"
    assert set(usage["feature_order"]) >= {"Gap", "KLEN", "New"}
    assert b"rdagent_sota_patch.plugin" not in pickle.dumps(
        {name: value for name, value in vars(outcome).items() if name != "sub_workspace_list"}
    )


def test_a_back_test_without_the_factors_stops_the_run(
    runner: Any,
    in_force: Any,
    make_factors: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A model that has fewer factors than the table is not a judge of them."""
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    execute = QlibFBWorkspace.execute

    def execute_on_less(self: Any, *args: Any, **kwargs: Any) -> Any:
        outcome = execute(self, *args, **kwargs)
        (self.workspace_path / "combined_factors_df.parquet").rename(self.workspace_path / "aside")
        write_recorder(self.workspace_path, {"KLEN": "$high-$low"})
        (self.workspace_path / "aside").rename(self.workspace_path / "combined_factors_df.parquet")
        return outcome

    monkeypatch.setattr(QlibFBWorkspace, "execute", execute_on_less)
    in_force(make_sota(metrics=KNOWN))
    with pytest.raises(HostError, match="the model does not have Gap, KLEN, New"):
        runner.develop(make_factors("New"))


def test_near_copies_are_left_out(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """Upstream's own deduplication works against the SOTA factors."""
    in_force(make_sota(metrics=KNOWN))
    assert names_in(runner.develop(make_factors("Copy", "New"))) == ["Gap", "KLEN", "New"]


def test_nothing_new_is_upstreams_error(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A loop that only repeats the SOTA factors is skipped as upstream does, and leaves the experiment whole."""
    from rdagent.core.exception import FactorEmptyError

    in_force(make_sota(metrics=KNOWN))
    experiment = make_factors("Copy")
    based = experiment.based_experiments
    with pytest.raises(FactorEmptyError, match="highly similar"):
        runner.develop(experiment)
    assert experiment.based_experiments is based
    assert "execute" not in vars(experiment.experiment_workspace)
    assert backtest == []


def test_own_factors_and_model_stay(
    runner: Any,
    in_force: Any,
    make_factors: Factory,
    make_sota: Factory,
    make_experiment: Factory,
    backtest: list[dict[str, Any]],
) -> None:
    """What the run accepted itself joins in once, and its model takes the features that there are."""
    from rdagent_sota_patch.plugin.traits import installed_traits

    in_force(make_sota(metrics=KNOWN))
    own = runner.develop(make_factors("Own"))
    model = make_experiment()
    model.result = own.result
    outcome = runner.develop(make_factors("New", based=(own, model)))
    assert names_in(outcome) == ["Gap", "KLEN", "New", "Own"]
    assert backtest[-1]["name"] == "conf_combined_factors_sota_model.yaml"
    # KLEN is a mined factor and an Alpha feature: one column.
    alpha = installed_traits().features_of(outcome)
    assert backtest[-1]["env"]["num_features"] == len(alpha) + 3


def test_later_model_counts_nothing_twice(
    runner: Any,
    in_force: Any,
    make_factors: Factory,
    make_sota: Factory,
    make_experiment: Factory,
    backtest: list[dict[str, Any]],
) -> None:
    """A model after an accepted factor loop is fed the SOTA factors and that loop's, each once."""
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    from rdagent_sota_patch.plugin.feeding import feeding
    from rdagent_sota_patch.plugin.model_runner import _develop_upstream

    sota = in_force(make_sota(metrics=KNOWN))
    model = make_experiment()
    model.based_experiments = [runner.develop(make_factors("Own"))]
    with feeding(model, sota):
        _develop_upstream(QlibModelRunner(None), model)
    assert names_in(model) == ["Gap", "KLEN", "Own"]
    count = len(set(model.sota_source["feature_order"]))
    assert model.sota_source["num_features"] == count


def test_inherited_factors_are_not_run_again(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """An inherited experiment stands in the history, and its factors in the SOTA table alone."""
    in_force(make_sota(metrics=KNOWN))
    inherited = make_factors("Inherited")
    inherited.result = pd.Series(KNOWN)
    inherited.inherited_from = {"task_id": "factor", "loop": 0}
    outcome = runner.develop(make_factors("New", based=(inherited,)))
    assert names_in(outcome) == ["Gap", "KLEN", "New"]
    assert outcome.based_experiments[-1] is inherited


def test_unknown_result_is_measured_once(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """Where the source recorded no result, the SOTA factors are back-tested as they are, for comparison."""
    sota = make_sota()
    in_force(replace(sota, source=replace(sota.source, metrics=MappingProxyType({}))))
    first = runner.develop(make_factors("New"))
    assert len(backtest) == 2
    assert first.based_experiments[0].result["IC"] == 0.1
    runner.develop(make_factors("Other"))
    assert len(backtest) == 3


def test_cache_knows_nothing_of_it(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """The same tasks are run again: upstream's key does not cover the SOTA factors."""
    in_force(make_sota(metrics=KNOWN))
    runner.develop(make_factors("New"))
    runner.develop(make_factors("New"))
    assert len(backtest) == 2


def test_changed_table_stops(
    runner: Any, in_force: Any, make_factors: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A table that changed after the run checked it is not used."""
    sota = in_force(make_sota(metrics=KNOWN))
    sota.table.path.write_bytes(b"other")
    with pytest.raises(SourceError, match="source-changed"):
        runner.develop(make_factors("New"))


@pytest.mark.parametrize("case", ["nothing set", "fin_factor"])
def test_left_alone(
    case: str,
    runner: Any,
    in_force: Any,
    make_factors: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
) -> None:
    """Without a source, and in fin_factor whatever is set, it is upstream's develop, cache and all."""
    if case == "fin_factor":
        in_force(make_sota(metrics=KNOWN))
        runner.scen = object()
    else:
        in_force(None)
    outcome = runner.develop(make_factors("New"))
    assert names_in(outcome) == ["New"]
    assert not hasattr(outcome, "sota_source")
    # Upstream measures the Alpha features first.
    assert [call["name"] for call in backtest] == ["conf_baseline.yaml", "conf_combined_factors.yaml"]
    runner.develop(make_factors("New"))
    assert len(backtest) == 2


def test_other_upstream_is_refused(runner: Any) -> None:
    """A runner that is built otherwise is told so."""
    from types import ModuleType

    from rdagent_sota_patch.plugin.factor_runner import attach_factor_runner

    with pytest.raises(HostError, match="host-changed"):
        attach_factor_runner(ModuleType("rdagent.scenarios.qlib.developer.factor_runner"))


def test_a_runner_that_takes_one_factor_experiment(
    runner: Any,
    make_factors: Factory,
    make_sota: Factory,
    make_experiment: Factory,
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
) -> None:
    """With `>= 1` in the place of `> 1`, factors and models are fed alike: no placeholder is searched for factors."""
    from rdagent.scenarios.qlib.developer import factor_runner as upstream_factors
    from rdagent.scenarios.qlib.developer import model_runner as upstream_models

    from rdagent_sota_patch.plugin import factor_runner, model_runner

    lenient = {
        module: _with_threshold_one(module, bare)
        for module, bare in (
            (upstream_factors, upstream_factors.QlibFactorRunner.develop.__wrapped__),
            (upstream_models, model_runner._develop_upstream),
        )
    }
    sota = make_sota()
    unknown = replace(sota, source=replace(sota.source, metrics=MappingProxyType({})))
    outcome = factor_runner._develop_on_sota(runner, make_factors("New"), unknown, lenient[upstream_factors])
    assert names_in(outcome) == ["Gap", "KLEN", "New"]
    assert outcome.based_experiments[0].result["IC"] == 0.1 and len(backtest) == 2
    mocker.patch.object(model_runner, "_develop_upstream", lenient[upstream_models])
    mocker.patch.object(model_runner, "active_sota", return_value=sota)
    model = model_runner.SotaModelRunner(None).develop(make_experiment())
    assert model.sota_source["num_features"] == 21
    assert (
        backtest[-1]["env"]["num_features"] == "21" and backtest[-1]["name"] == "conf_sota_factors_model.yaml"
    )


def _with_threshold_one(module: ModuleType, develop: Any) -> Any:
    """The released ``develop`` that takes a single factor experiment for enough."""
    source = textwrap.dedent(inspect.getsource(develop))
    changed = source[source.index("def develop") :].replace(
        "experiments_list) > 1:", "experiments_list) >= 1:"
    )
    assert changed not in source
    scope = dict(vars(module))
    exec(changed, scope)
    return scope["develop"]

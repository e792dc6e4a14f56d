"""The model runner: fed for the duration of ``develop``, its cache keyed by all that decides the result."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError, SourceError
from rdagent_sota_patch.host_source import CONFIG_NAME
from rdagent_sota_patch.plugin.traits import installed_traits
from tests.mlruns.forged_recorder import write_recorder

Factory = Callable[..., Any]


@pytest.fixture
def develop(rdagent: Path, mocker: MockerFixture) -> Factory:
    """Develop an experiment on the given SOTA factors."""
    from rdagent_sota_patch.plugin import model_runner

    def run(experiment: Any, sota: Any, runner_class: Any = model_runner.SotaModelRunner) -> Any:
        mocker.patch.object(model_runner, "active_sota", return_value=sota)
        return runner_class(None).develop(experiment)

    return run


def test_takes_the_place_of_the_original(rdagent: Path) -> None:
    """Whoever resolves the class by its path gets the plugin's, under the original's name."""
    from rdagent.scenarios.qlib.developer import model_runner

    runner = model_runner.QlibModelRunner
    assert runner.__bases__[0].__qualname__ == "QlibModelRunner"
    assert (runner.__module__, runner.__qualname__) == (model_runner.__name__, "QlibModelRunner")


def test_feeds_alpha_and_sota(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    table: Path,
) -> None:
    """The table is copied byte for byte; the mined factor replaces the Alpha of its name, and is counted once."""
    experiment = develop(make_experiment(), make_sota())
    (call,) = backtest
    assert call["table"] == table.read_bytes()
    assert call["name"] == "conf_sota_factors_model.yaml"
    alpha = installed_traits().alpha_features()
    del alpha["KLEN"]
    assert call["env"]["num_features"] == "21"
    assert call["env"].items() >= installed_traits().run_variables(alpha, 21).items()
    usage = experiment.sota_source
    assert usage["feature_order"] == sorted(["Gap", "KLEN", *alpha])
    assert usage["alpha_factors"] == alpha
    assert (usage["shared_names"], usage["num_features"]) == (["KLEN"], 21)
    assert usage["model"]["metrics"] == {"IC": 0.1}


def test_feeds_sota_alone(
    develop: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """Without Alpha the configuration loads the label alone; RD-Agent's own template stays as it was."""
    experiment = develop(make_experiment(), make_sota(use_alpha=False))
    (call,) = backtest
    assert call["env"]["num_features"] == "2"
    loaders = yaml.safe_load(call["config"].split("data_loader:")[1].split("infer_processors")[0])
    classes = [entry["class"] for entry in loaders["kwargs"]["dataloader_l"]]
    assert classes == ["qlib.data.dataset.loader.QlibDataLoader", "qlib.data.dataset.loader.StaticDataLoader"]
    assert list(loaders["kwargs"]["dataloader_l"][0]["kwargs"]["config"]) == ["label"]
    template = experiment.experiment_workspace.workspace_path / "conf_sota_factors_model.yaml"
    assert "Alpha158DL" in template.read_text(encoding="utf-8")


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(
    fails: bool,
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
) -> None:
    """After ``develop``, failed or not, the experiment has its own base, features and ``execute`` again."""
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    if fails:
        mocker.patch.object(QlibFBWorkspace, "execute", side_effect=RuntimeError("no disk"))
    experiment = make_experiment()
    base, features = experiment.based_experiments, dict(experiment.base_features)
    if fails:
        with pytest.raises(RuntimeError):
            develop(experiment, make_sota())
    else:
        develop(experiment, make_sota())
    assert experiment.based_experiments is base
    assert experiment.base_features == features
    assert "execute" not in vars(experiment.experiment_workspace)
    workspaces = experiment.experiment_workspace.workspace_path.parent
    own = {experiment.experiment_workspace.workspace_path, experiment.sub_workspace_list[0].workspace_path}
    assert set(workspaces.iterdir()) == own


def test_synthetic_result_is_real_or_nan(rdagent: Path, make_sota: Factory) -> None:
    """The synthetic experiment carries the source's metrics; where none are known NaN, never a zero."""
    from rdagent_sota_patch.plugin.synthetic import make_sota_experiment, metrics_series

    assert make_sota_experiment(make_sota(metrics={"IC": 0.07}), whole=False).result["IC"] == 0.07
    assert metrics_series({}).isna().all()


def test_changed_source_is_refused(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    table: Path,
) -> None:
    """A table that changed after it was checked is not trained on."""
    sota = make_sota()
    (pd.read_parquet(table) * 2).to_parquet(table)
    with pytest.raises(SourceError, match="source-changed"):
        develop(make_experiment(), sota)
    assert backtest == []


def test_cached_run_brings_its_workspace(
    develop: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A second run of the same model on the same factors takes the first one's result and whole workspace."""
    first = develop(make_experiment(), make_sota())
    second = develop(make_experiment(), make_sota())
    assert len(backtest) == 1
    assert second.result.equals(first.result)
    assert second.experiment_workspace.workspace_path == first.experiment_workspace.workspace_path
    assert second.sota_source == first.sota_source


def test_cached_run_without_its_workspace_runs_again(
    develop: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A cached result whose workspace was cleaned is not taken; the new run replaces it in the cache."""
    first = develop(make_experiment(), make_sota())
    shutil.rmtree(first.experiment_workspace.workspace_path / "mlruns")
    second = develop(make_experiment(), make_sota())
    third = develop(make_experiment(), make_sota())
    assert len(backtest) == 2
    assert third.experiment_workspace.workspace_path == second.experiment_workspace.workspace_path


def test_key_covers_what_decides_the_result(
    rdagent: Path,
    make_experiment: Factory,
    make_sota: Factory,
    mocker: MockerFixture,
    table: Path,
    tmp_path: Path,
) -> None:
    """Another table, switch, code, hyper-parameter, base feature or date gives another key; another path does not."""
    from dataclasses import replace
    from datetime import date

    from rdagent_sota_patch.plugin import model_runner
    from rdagent_sota_patch.plugin.traits import installed_traits

    def key(sota: Any, experiment: Any) -> str:
        mocker.patch.object(model_runner, "active_sota", return_value=sota)
        return str(model_runner.run_key(None, experiment))

    sota = make_sota()
    reference = key(sota, make_experiment())
    assert key(sota, make_experiment()) == reference
    elsewhere = tmp_path / "elsewhere.parquet"
    shutil.copy(table, elsewhere)
    assert key(make_sota(path=elsewhere), make_experiment()) == reference
    other = tmp_path / "other.parquet"
    (pd.read_parquet(table) * 2).to_parquet(other)
    retold, by_template, on_own, on_other_code = (make_experiment() for _ in range(4))
    by_template.experiment_workspace.file_dict[CONFIG_NAME] += "\n# another template\n"
    retold.base_features = {**retold.base_features, "ROC60": "Ref($close, 61)/$close"}
    # A host that has its features in the template takes no others.
    features_of = installed_traits().features_of
    told_apart = [retold] if features_of(retold) != features_of(make_experiment()) else []
    on_own.based_experiments = [own_factors("factor = 1\n")]
    on_other_code.based_experiments = [own_factors("factor = 2\n")]
    keys = [
        key(make_sota(path=other), make_experiment()),
        key(make_sota(use_alpha=False), make_experiment()),
        key(sota, make_experiment(code="model_cls = 2\n")),
        key(sota, make_experiment(training_hyperparameters={"n_epochs": "3"})),
        key(sota, make_experiment(hyperparameters={"hidden": "8"})),
        key(sota, make_experiment(model_type="TimeSeries")),
        *(key(sota, each) for each in told_apart),
        key(sota, by_template),
        key(sota, on_own),
        key(sota, on_other_code),
        key(replace(sota, segments=replace(sota.segments, test_start=date(2020, 1, 13))), make_experiment()),
    ]
    assert len({reference, *keys}) == len(keys) + 1


def own_factors(code: str) -> Any:
    """An accepted factor experiment of the run's own, with this code."""
    from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

    task = FactorTask("Own", "", "")
    workspace = FactorFBWorkspace(target_task=task)
    workspace.inject_files(**{"factor.py": code})
    experiment = QlibFactorExperiment(sub_tasks=[task])
    experiment.sub_workspace_list = [workspace]
    return experiment


def test_own_runner_that_skips_the_factors_is_caught(
    develop: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A user's subclass has to go through ``super().develop``."""
    from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

    class Bypass(QlibModelRunner):
        def develop(self, exp: Any) -> Any:
            return exp

    class Wrapper(QlibModelRunner):
        def develop(self, exp: Any) -> Any:
            return super().develop(exp)

    with pytest.raises(HostError, match="runner-without-sota"):
        develop(make_experiment(), make_sota(), Bypass)
    assert develop(make_experiment(), make_sota(), Wrapper).sota_source["num_features"] == 21
    experiment = make_experiment()
    assert develop(experiment, None, Bypass) is experiment


def test_a_host_that_back_tests_elsewhere_is_caught(
    develop: Factory, make_experiment: Factory, make_sota: Factory, mocker: MockerFixture
) -> None:
    """A fork's ``develop`` that never comes to the workspace's ``execute`` is an error, not a traceback."""
    from rdagent_sota_patch.plugin import model_runner

    def develop_elsewhere(runner: Any, exp: Any) -> Any:
        return exp

    mocker.patch.object(model_runner, "_develop_upstream", develop_elsewhere)
    with pytest.raises(HostError, match=r"runner-without-sota.*without a back-test") as caught:
        develop(make_experiment(), make_sota())
    assert __file__ in str(caught.value)


def test_changed_template_is_refused(
    develop: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """A template whose Alpha entry is spelled otherwise is an error, not a guess."""
    experiment = make_experiment()
    templates = experiment.experiment_workspace.file_dict
    templates[CONFIG_NAME] = templates[CONFIG_NAME].replace("Alpha158DL", "Alpha360DL")
    with pytest.raises(HostError, match="host-changed"):
        develop(experiment, make_sota(use_alpha=False))
    assert backtest == []


@pytest.fixture
def afterwards(backtest: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Have something done to the workspace at the end of each back-test."""
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    execute = QlibFBWorkspace.execute

    def do(change: Callable[[Path], object]) -> None:
        def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
            outcome = execute(self, *args, **kwargs)
            change(self.workspace_path)
            return outcome

        monkeypatch.setattr(QlibFBWorkspace, "execute", changed)

    return do


def proof_in(workspace: Path) -> dict[str, Any]:
    proof: dict[str, Any] = json.loads((workspace / "sota_source.json").read_text())["proof"]
    return proof


def test_ends_with_a_proof(
    develop: Factory, make_experiment: Factory, make_sota: Factory, backtest: list[dict[str, Any]]
) -> None:
    """What the record says is held against the recorder of this very run; a cached result keeps it."""
    experiment = develop(make_experiment(), make_sota())
    usage, workspace = experiment.sota_source, experiment.experiment_workspace.workspace_path
    assert usage["proof"]["status"] == "proven"
    assert usage["proof"]["columns"] == usage["feature_order"]
    assert (workspace / "mlruns" / "1" / usage["proof"]["run_id"]).is_dir()
    assert proof_in(workspace) == usage["proof"]
    assert develop(make_experiment(), make_sota()).sota_source["proof"] == usage["proof"]
    assert len(backtest) == 1


def test_another_input_stops_the_run(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    afterwards: Factory,
    backtest: list[dict[str, Any]],
) -> None:
    """SOTA factors alone were asked for, and the model has Alpha features as well: no result, and none in the cache."""
    alpha = installed_traits().alpha_features()
    afterwards(lambda workspace: write_recorder(workspace, alpha))
    with pytest.raises(HostError, match=r"the model has .*KLOW.* as well") as caught:
        develop(make_experiment(), make_sota(use_alpha=False))
    assert caught.value.slug == "features-differ"
    with pytest.raises(HostError, match="features-differ"):
        develop(make_experiment(), make_sota(use_alpha=False))
    assert len(backtest) == 2


def test_another_input_is_marked_where_the_run_goes_on(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    afterwards: Factory,
    backtest: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SOTA_STRICT off: a warning and a mark; a strict run then does not take it from the cache."""
    alpha = installed_traits().alpha_features()
    afterwards(lambda workspace: write_recorder(workspace, alpha))
    monkeypatch.setenv("SOTA_STRICT", "false")
    experiment = develop(make_experiment(), make_sota(use_alpha=False))
    proof = experiment.sota_source["proof"]
    assert proof["status"] == "differs" and "as well" in proof["reason"]
    assert proof_in(experiment.experiment_workspace.workspace_path) == proof
    monkeypatch.setenv("SOTA_STRICT", "true")
    with pytest.raises(HostError, match="features-differ"):
        develop(make_experiment(), make_sota(use_alpha=False))


def test_a_back_test_that_left_nothing_to_read(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    afterwards: Factory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly them, or stop: what should be readable and is not, is not a proof; and no accusation either."""
    afterwards(lambda workspace: shutil.rmtree(workspace / "mlruns"))
    with pytest.raises(HostError, match="features-unproven"):
        develop(make_experiment(), make_sota())
    monkeypatch.setenv("SOTA_STRICT", "false")
    proof = develop(make_experiment(), make_sota()).sota_source["proof"]
    assert (proof["status"], proof["columns"]) == ("unjudged", None)


def test_a_result_that_an_older_release_kept_is_proven_when_it_is_taken(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its record has no proof, and its workspace has all that one needs."""
    from rdagent_sota_patch.plugin import model_runner

    with monkeypatch.context() as before:
        before.setattr(model_runner, "prove_usage", lambda usage, *_: usage)
        before.setattr(model_runner, "_require", lambda *_: None)
        assert "proof" not in develop(make_experiment(), make_sota()).sota_source
    assert develop(make_experiment(), make_sota()).sota_source["proof"]["status"] == "proven"
    assert len(backtest) == 1


def test_weights_in_a_workspace_are_no_input(
    rdagent: Path, make_experiment: Factory, make_sota: Factory, mocker: MockerFixture
) -> None:
    """Some checkouts put a back-test's weights into `file_dict`; the key is that of the code, and other bytes count."""
    from rdagent_sota_patch.plugin import model_runner

    mocker.patch.object(model_runner, "active_sota", return_value=make_sota())
    experiment = make_experiment()
    reference = model_runner.run_key(None, experiment)
    files = experiment.sub_workspace_list[0].file_dict
    files.update({"model.pkl": b"1" * 1000, "params.pkl": b"2" * 1000})
    assert model_runner.run_key(None, experiment) == reference
    files["scaler.bin"] = b"3"
    keys = {reference, model_runner.run_key(None, experiment)}
    files["scaler.bin"] = b"4"
    assert len({*keys, model_runner.run_key(None, experiment)}) == 3


@pytest.mark.parametrize(
    ("there", "whole"),
    [(("ret.pkl",), True), (("ret.parquet",), True), (("ret.pkl", "ret.parquet"), True), ((), False)],
)
def test_either_file_of_returns_is_enough(
    there: tuple[str, ...],
    whole: bool,
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
) -> None:
    """Where RD-Agent looks for either, a workspace with one of them, or both, is whole."""
    from rdagent_sota_patch.plugin import model_runner

    workspace = develop(make_experiment(), make_sota()).experiment_workspace.workspace_path
    for left in workspace.glob("ret.*"):
        left.unlink()
    for name in there:
        (workspace / name).write_bytes(b"")
    traits = SimpleNamespace(returns_names=("ret.parquet", "ret.pkl"))
    mocker.patch.object(model_runner, "installed_traits", return_value=traits)
    assert model_runner._is_whole(workspace) is whole


def test_three_attempts_are_fed_alike(
    develop: Factory,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    table: Path,
) -> None:
    """A runner that tries again with another dataset class gets the table and the count each time."""
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    once = QlibFBWorkspace.execute
    experiment = make_experiment()

    def thrice(self: Any, qlib_config_name: str, run_env: dict[str, Any]) -> Any:
        outcome = None
        for attempt in range(3):
            shutil.rmtree(self.workspace_path / "mlruns", ignore_errors=True)
            outcome = once(self, qlib_config_name, {**run_env, "attempt": attempt})
        return outcome

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QlibFBWorkspace, "execute", thrice)
        outcome = develop(experiment, make_sota())
    assert [call["env"]["num_features"] for call in backtest] == ["21"] * 3
    assert [call["table"] for call in backtest] == [table.read_bytes()] * 3
    assert outcome.sota_source["num_features"] == 21


@pytest.mark.parametrize("moved", [False, True])
def test_another_template_of_the_same_dates(
    moved: bool,
    rdagent: Path,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
) -> None:
    """A checkout may choose a template of its own on mined factors: fed, unless its dates are other ones."""
    from dataclasses import replace
    from datetime import date

    from rdagent_sota_patch.plugin.feeding import feeding

    segments = installed_traits().segments()
    sota = replace(make_sota(), segments=segments)
    experiment = make_experiment()
    workspace = experiment.experiment_workspace
    workspace.file_dict["conf_us.yaml"] = workspace.file_dict[CONFIG_NAME]
    if moved:
        sota = replace(sota, segments=replace(segments, train_start=date(2001, 1, 1)))
    with feeding(experiment, sota):
        if moved:
            with pytest.raises(HostError, match="2001-01-01"):
                workspace.execute(qlib_config_name="conf_us.yaml", run_env={})
        else:
            workspace.execute(qlib_config_name="conf_us.yaml", run_env={})
        with pytest.raises(HostError, match="does not load combined_factors_df"):
            workspace.execute(qlib_config_name="conf_baseline_factors_model.yaml", run_env={})
    assert [call["env"]["num_features"] for call in backtest] == ([] if moved else ["21"])

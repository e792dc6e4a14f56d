"""A model experiment trained again with a seed: a copy of it, which leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture

Factory = Callable[..., Any]


@pytest.fixture
def runner(rdagent: Path) -> Any:
    """RD-Agent's runner as the plugin has it, with no SOTA factors in force."""
    from rdagent_sota_patch.plugin.model_runner import SotaModelRunner

    return SotaModelRunner(None)


def test_trains_a_copy(
    runner: Any, make_experiment: Factory, mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has the run's template and code in a folder of its own, gone afterwards; the run cache stays out."""
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    from rdagent_sota_patch.plugin.model_runner import active_sota
    from rdagent_sota_patch.plugin.retraining import train_with_seed

    assert active_sota() is None
    seen = []

    def execute(self: Any, qlib_config_name: str, run_env: dict[str, Any]) -> tuple[Any, str]:
        seen.append(
            (
                self.workspace_path,
                qlib_config_name,
                run_env,
                {path.name: path.read_text(encoding="utf-8") for path in self.workspace_path.iterdir()},
            )
        )
        return pd.Series({"IC": len(seen) / 10}), ""

    monkeypatch.setattr(QlibFBWorkspace, "execute", execute)
    experiment = make_experiment(code="model_cls = 5\n")
    runner.develop(experiment)
    files = dict(experiment.experiment_workspace.file_dict)
    assert [train_with_seed(runner, experiment, seed)["IC"] for seed in (1, 2)] == [0.2, 0.3]
    (own, *of_run), (first, *of_first), (second, *_) = seen
    assert of_run[:2] == of_first[:2]
    assert of_first[2].pop("model_of_run.py") == of_run[2].pop("model.py") == "model_cls = 5\n"
    assert "trained with seed 1" in of_first[2].pop("model.py")
    assert of_first[2] == of_run[2]
    assert own.is_dir() and not first.exists() and not second.exists()
    assert experiment.result["IC"] == 0.1
    assert experiment.experiment_workspace.file_dict == files
    assert experiment.experiment_workspace.workspace_path == own
    assert experiment.sub_workspace_list[0].file_dict["model.py"] == "model_cls = 5\n"


def test_is_fed_as_the_run_was(
    runner: Any,
    make_experiment: Factory,
    make_sota: Factory,
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
    table: Path,
) -> None:
    """With SOTA factors in force, the copy is trained on the same table, and the run's own record stays."""
    from rdagent_sota_patch.plugin import model_runner
    from rdagent_sota_patch.plugin.retraining import train_with_seed

    mocker.patch.object(model_runner, "active_sota", return_value=make_sota())
    experiment = runner.develop(make_experiment())
    record = dict(experiment.sota_source)
    train_with_seed(runner, experiment, 1)
    of_run, again = backtest
    assert again == of_run
    assert again["table"] == table.read_bytes()
    assert experiment.sota_source == record


@pytest.mark.parametrize(("failures", "fails"), [(2, False), (3, True)])
def test_a_failed_back_test_is_repeated(
    failures: int, fails: bool, runner: Any, make_experiment: Factory, mocker: MockerFixture
) -> None:
    """MLflow spoils a back-test now and then: a seed is tried three times, then said to have failed."""
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    from rdagent_sota_patch.evidence.seeded_model import TrainingFailedError
    from rdagent_sota_patch.plugin.retraining import train_with_seed

    answers = [(None, "Metric 'Rank ICIR' is malformed")] * failures + [(pd.Series({"IC": 0.1}), "")]
    mocker.patch.object(QlibFBWorkspace, "execute", side_effect=answers)
    experiment = make_experiment()
    if fails:
        with pytest.raises(TrainingFailedError, match="malformed"):
            train_with_seed(runner, experiment, 1)
    else:
        assert train_with_seed(runner, experiment, 1)["IC"] == 0.1

"""``SOTA_ACCEPT_SEEDS``: which acceptances hold, what the LLM is told, and what whole runs accept and train."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import HostError, SettingsError
from rdagent_sota_patch.evidence.seed_test import METRIC

SEEDS = 5

MEASURED = (0.0375214, 0.0077953, 0.0452682, 0.0388404, -0.0076869, 0.0434348, 0.0262760, 0.0003, -0.0350)
"""Annualized return with cost of one network, trained nine times: `OneModel` of the integration tests, one epoch."""


@pytest.fixture
def summarizer(rdagent: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture) -> Iterator[Any]:
    """RD-Agent's summarizer of models, attached to; its language model accepts whatever has a larger return."""
    from rdagent.core.proposal import HypothesisFeedback
    from rdagent.scenarios.qlib.developer.feedback import QlibModelExperiment2Feedback

    from rdagent_sota_patch.plugin import seed_acceptance

    def generate_feedback(self: Any, exp: Any, trace: Any) -> HypothesisFeedback:
        sota = trace.get_sota_hypothesis_and_experiment()[1]
        better = sota is None or not exp.result[METRIC] <= sota.result[METRIC]
        return HypothesisFeedback(
            reason="It is larger.",
            decision=better,
            observations="Seen.",
            # 0.8.0 has no defaults for these.
            hypothesis_evaluation="",
            new_hypothesis="",
        )

    mocker.patch.object(QlibModelExperiment2Feedback, "generate_feedback", generate_feedback)
    mocker.patch.object(seed_acceptance, "logger")
    seed_acceptance.attach_seed_acceptance()
    monkeypatch.setenv("SOTA_ACCEPT_SEEDS", str(SEEDS))
    return QlibModelExperiment2Feedback(None)


class Run:
    """A run whose trainings are drawn: each model has a mean, and each training adds noise."""

    def __init__(self, summarizer: Any, mocker: MockerFixture, noise: Callable[[], float]) -> None:
        from rdagent.core.proposal import Trace

        from rdagent_sota_patch.plugin import seed_acceptance

        self.summarizer, self.noise = summarizer, noise
        self.trace: Any = Trace(scen=None)
        self.trained: list[tuple[str, int]] = []
        mocker.patch.object(seed_acceptance, "train_with_seed", self._train)

    def _train(self, runner: Any, exp: Any, seed: int) -> Any:
        self.trained.append((exp.name, seed))
        return pd.Series({METRIC: exp.mean + self.noise()})

    def loop(self, mean: float = 0.0, result: float | None = None, code: bool = True) -> Any:
        """One loop; the feedback."""
        spaces = [SimpleNamespace(file_dict={"model.py": "model_cls = 1"})] if code else []
        exp = SimpleNamespace(
            name=f"m{len(self.trace.hist)}",
            mean=mean,
            hypothesis="h",
            result=pd.Series({METRIC: mean + self.noise() if result is None else result}),
            sub_workspace_list=spaces,
        )
        feedback = self.summarizer.generate_feedback(exp, self.trace)
        self.trace.idx2loop_id[len(self.trace.hist)] = len(self.trace.hist)
        self.trace.hist.append((exp, feedback))
        return feedback

    @property
    def records(self) -> list[Any]:
        """What is kept of each loop."""
        return [getattr(exp, "seed_test", None) for exp, _ in self.trace.hist]


@pytest.fixture
def make_run(summarizer: Any, mocker: MockerFixture) -> Callable[[Callable[[], float]], Run]:
    return lambda noise: Run(summarizer, mocker, noise)


def test_off_is_the_original(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting every acceptance is RD-Agent's, word for word, and nothing is kept or trained."""
    monkeypatch.delenv("SOTA_ACCEPT_SEEDS")
    run = make_run(lambda: 0.0)
    run.loop(result=0.1)
    feedback = run.loop(result=0.2)
    assert vars(feedback)["reason"] == "It is larger." and feedback.decision
    assert run.records == [None, None] and run.trained == []


def test_the_first_is_accepted_as_upstream_does(make_run: Callable[..., Run]) -> None:
    """There is nothing to compare it with, and the feedback says so."""
    run = make_run(lambda: 0.0)
    feedback = run.loop(result=0.1)
    assert feedback.decision and "no SOTA before it" in feedback.reason
    assert run.records[0]["outcome"] == "first" and run.trained == []


def test_noise_is_turned_down(make_run: Callable[..., Run]) -> None:
    """One lucky training of the same model: both are trained again, and the acceptance does not hold."""
    noise = iter([0.1, 0.0, 0.1, 0.3])
    run = make_run(lambda: next(noise))
    run.loop(result=0.1)
    feedback = run.loop(result=0.2)
    assert feedback.decision is False
    assert run.trained == [("m1", 1), ("m0", 1), ("m1", 2), ("m0", 2)]
    for text in (feedback.reason, feedback.observations):
        assert "the improvement is within the noise of seeds" in text
    assert feedback.reason.startswith("It is larger.\n") and feedback.observations.startswith("Seen.\n")
    record = run.records[1]
    assert (record["new"], record["sota"], record["sota_loop"]) == ([0.1, 0.1], [0.0, 0.3], 0)
    assert (record["outcome"], record["trained"], record["test"]) == ("not better", 4, 1)
    assert json.loads(json.dumps(record)) == record


def test_the_next_proposal_is_told(make_run: Callable[..., Run]) -> None:
    """RD-Agent's own prompts for the next hypothesis hold the reason, of the last trial and of the history."""
    from rdagent.utils.agent.tpl import T

    noise = iter([0.1, 0.0, 0.1, 0.3])
    run = make_run(lambda: next(noise))
    run.loop(result=0.1)
    run.loop(result=0.2)
    for exp, _ in run.trace.hist:
        exp.sub_tasks, exp.stdout = [], ""
        for metric in (
            "IC",
            *(f"1day.excess_return_without_cost.{name}" for name in ("annualized_return", "max_drawdown")),
        ):
            exp.result[metric] = 0.0
    exp, feedback = run.trace.hist[-1]
    prompts = [
        T("scenarios.qlib.prompts:last_hypothesis_and_feedback").r(experiment=exp, feedback=feedback),
        T("scenarios.qlib.prompts:hypothesis_and_feedback").r(trace=run.trace),
    ]
    assert all("the improvement is within the noise of seeds" in prompt for prompt in prompts)


def test_a_large_improvement_holds(make_run: Callable[..., Run]) -> None:
    """Better with every seed by far more than they vary; the winner's seeds are then known for the next test."""
    noise = iter([0.0, 0.01, 0.0, 0.0, 0.01, 0.0, 0.02, 0.01, 0.0, 0.01])
    run = make_run(lambda: next(noise))
    run.loop(mean=0.1, result=0.1)
    feedback = run.loop(mean=0.5, result=0.5)
    assert feedback.decision and "larger than the noise" in feedback.reason
    record, before = run.records[1], len(run.trained)
    assert record["outcome"] == "better" and len(record["new"]) < SEEDS
    run.loop(mean=0.5, result=0.51)
    assert {name for name, _ in run.trained[before:]} == {"m2"}


def test_what_is_not_above_the_seeds_mean_is_not_trained(make_run: Callable[..., Run]) -> None:
    """Larger than the SOTA's one unlucky result, and not than what its seeds give: no training is spent on it."""
    noise = iter([0.2, 0.3, 0.3, 0.2])
    run = make_run(lambda: next(noise))
    run.loop(result=0.0)
    run.loop(result=0.4)
    spent = len(run.trained)
    feedback = run.loop(result=0.1)
    assert feedback.decision is False and "was not trained again" in feedback.reason
    assert len(run.trained) == spent


def test_factors_are_compared_as_they_were(make_run: Callable[..., Run]) -> None:
    """The SOTA of an inherited history is a factor experiment: it has no model to train, and its result is taken."""
    noise = iter([0.01, 0.0, 0.02])
    run = make_run(lambda: next(noise))
    run.loop(result=0.1, code=False)
    feedback = run.loop(mean=0.5, result=0.5)
    assert feedback.decision and "the SOTA as it was" in feedback.reason
    assert {name for name, _ in run.trained} == {"m1"}
    assert set(run.records[1]["sota"]) == {0.1}


@pytest.mark.parametrize("which", [0, 1])
def test_a_result_without_the_metric_is_not_judged(which: int, make_run: Callable[..., Run]) -> None:
    """What cannot be compared is not accepted, and is not called noise."""
    run = make_run(lambda: 0.0)
    results = [0.1, 0.2]
    results[which] = float("nan")
    for result in results:
        feedback = run.loop(result=result)
    assert feedback.decision is False and "not judged" in feedback.reason
    assert run.records[1]["outcome"] == "not judged" and run.trained == []


def test_a_failed_training_is_not_judged(make_run: Callable[..., Run], mocker: MockerFixture) -> None:
    """A model that cannot be trained again is not accepted, and why is said."""
    from rdagent_sota_patch.evidence.seeded_model import TrainingFailedError
    from rdagent_sota_patch.plugin import seed_acceptance

    run = make_run(lambda: 0.0)
    run.loop(result=0.1)
    mocker.patch.object(seed_acceptance, "train_with_seed", side_effect=TrainingFailedError("out of memory"))
    feedback = run.loop(result=0.2)
    assert feedback.decision is False and "out of memory" in feedback.reason
    assert (run.records[1]["outcome"], run.records[1]["trained"]) == ("not judged", 1)


def test_steps_in_processes_of_their_own(make_run: Callable[..., Run], mocker: MockerFixture) -> None:
    """The experiment of such a step is lost, and only the feedback comes back: it carries the record."""
    from rdagent.core.conf import RD_AGENT_SETTINGS

    mocker.patch.object(type(RD_AGENT_SETTINGS), "is_force_subproc", return_value=True)
    run = make_run(lambda: 0.0)
    feedback = run.loop(result=0.1)
    assert feedback.seed_test["outcome"] == "first"
    del run.trace.hist[0][0].seed_test
    run.loop(result=0.2)
    assert run.records[1]["sota_loop"] == 0


def test_fin_quant_keeps_its_own_decisions(make_run: Callable[..., Run], mocker: MockerFixture) -> None:
    """Its feedback on models is of the same class, and is left alone."""
    from rdagent.scenarios.qlib.experiment.quant_experiment import QlibQuantScenario

    run = make_run(lambda: 0.0)
    run.summarizer.scen = object.__new__(QlibQuantScenario)
    run.loop(result=0.1)
    assert run.loop(result=0.2).decision and run.records == [None, None]


def test_what_a_run_needs(summarizer: Any) -> None:
    """A model run with RD-Agent's summarizer passes; a summarizer that decides itself, and fin_quant, do not."""
    from rdagent_sota_patch.plugin.seed_acceptance import require_seed_acceptance

    class Inherits(type(summarizer)):  # type: ignore[misc]
        pass

    class Decides(type(summarizer)):  # type: ignore[misc]
        def generate_feedback(self, exp: Any, trace: Any) -> Any:
            """Decide otherwise."""

    for good in (summarizer, Inherits(None)):
        require_seed_acceptance(SimpleNamespace(summarizer=good), quant=False)
    with pytest.raises(HostError, match="summarizer-without-seeds"):
        require_seed_acceptance(SimpleNamespace(summarizer=Decides(None)), quant=False)
    with pytest.raises(SettingsError, match="seeds-in-quant"):
        require_seed_acceptance(SimpleNamespace(summarizer=summarizer), quant=True)


def test_is_trained_by_the_run_s_runner_on_its_sota_factors(
    summarizer: Any,
    make_experiment: Callable[..., Any],
    make_sota: Callable[..., Any],
    backtest: list[dict[str, Any]],
    mocker: MockerFixture,
    monkeypatch: pytest.MonkeyPatch,
    table: Path,
) -> None:
    """With ``LOAD_SOTA_*``, both models are trained again on the table and the template that they were trained on."""
    from rdagent.core.proposal import Trace
    from rdagent.scenarios.qlib.developer import model_runner as host
    from rdagent.scenarios.qlib.experiment.workspace import QlibFBWorkspace

    from rdagent_sota_patch.plugin import model_runner

    monkeypatch.setattr(host, "QlibModelRunner", model_runner.SotaModelRunner)
    mocker.patch.object(model_runner, "active_sota", return_value=make_sota())
    trained, code = QlibFBWorkspace.execute, []

    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        result, said = trained(self, *args, **kwargs)
        inner = self.workspace_path / "model_of_run.py"
        code.append((inner if inner.exists() else self.workspace_path / "model.py").read_text("utf-8"))
        result[METRIC] = float(code[-1].partition("#")[2]) + len(code) % 3 / 1000
        return result, said

    monkeypatch.setattr(QlibFBWorkspace, "execute", execute)
    trace, runner = Trace(scen=None), host.QlibModelRunner(None)
    for loop, mean in enumerate((0.1, 0.5)):
        exp = runner.develop(make_experiment(f"model_cls = 1  # {mean}"))
        own = dict(exp.sota_source)
        feedback = summarizer.generate_feedback(exp, trace)
        assert feedback.decision and exp.sota_source == own
        trace.idx2loop_id[loop] = loop
        trace.hist.append((exp, feedback))
    assert trace.hist[1][0].seed_test["outcome"] == "better"
    assert [each.partition("#")[2] for each in code] == [" 0.1", " 0.5", " 0.5", " 0.1", " 0.5", " 0.1"]
    assert backtest[0]["table"] == table.read_bytes()
    assert backtest == [backtest[0]] * 6


def accepted_after_the_first(run: Run) -> list[int]:
    """Loops that were accepted, but for the first."""
    return [loop for loop, (_, feedback) in enumerate(run.trace.hist) if feedback.decision and loop]


NOISES: dict[str, Callable[[np.random.Generator], Callable[[], float]]] = {
    "normal": lambda rng: lambda: float(rng.normal(0, 0.02)),
    "heavy tails": lambda rng: lambda: float(rng.standard_t(3) * 0.02),
    "skewed": lambda rng: lambda: float(rng.exponential(0.02)),
    # Their spread in steps of a kernel's width, so that no two trainings are equal.
    "measured": lambda rng: lambda: float(rng.choice(MEASURED) + rng.normal(0, 0.005)),
}


@pytest.mark.parametrize("noise", NOISES)
def test_runs_of_one_identical_model(noise: str, make_run: Callable[..., Run]) -> None:
    """Ten loops of one model: at most 5 % of 250 runs accept anything after the first, and none trains over twice."""
    rng = np.random.default_rng(14)
    accepting = 0
    for _ in range(250):
        run = make_run(NOISES[noise](rng))
        for _ in range(10):
            run.loop()
        accepting += bool(accepted_after_the_first(run))
        assert len(run.trained) <= 10
    assert accepting <= 12


def test_runs_with_a_better_model(make_run: Callable[..., Run]) -> None:
    """A second model that is better by three standard deviations of a training is accepted in most of 200 runs."""
    rng = np.random.default_rng(15)
    held = 0
    for _ in range(200):
        run = make_run(lambda: float(rng.normal(0, 0.02)))
        run.loop()
        held += run.loop(mean=0.06).decision
    assert held >= 150

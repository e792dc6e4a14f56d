from __future__ import annotations

import json

import pytest

from rdagent_sota_patch.demo.llm import Prompt, Screenplay, UnscriptedPromptError
from rdagent_sota_patch.demo.script import FACTOR_SCRIPT, ModelProposal, ModelType

HYPOTHESES = "The user is working on generating new hypotheses for the {} in a data-driven process."
EXPERIMENT = "generate new {} based on the hypothesis generated in the previous step."
FACTOR_FEEDBACK = "You are a professional financial result analysis assistant in data-driven R&D."
FIRST_ROUND = "It is the first round of hypothesis generation."


def propose(screenplay: Screenplay, targets: str, history: str = FIRST_ROUND) -> str:
    """Ask for a hypothesis as RD-Agent does."""
    answer = screenplay.answer(Prompt(HYPOTHESES.format(targets), history))
    return str(json.loads(answer)["hypothesis"])


def describe(screenplay: Screenplay, targets: str, hypothesis: str) -> dict[str, dict[str, object]]:
    """Ask for the experiment that tests a hypothesis as RD-Agent does."""
    answer = screenplay.answer(Prompt(EXPERIMENT.format(targets), f"The target is:\n{hypothesis}"))
    experiment: dict[str, dict[str, object]] = json.loads(answer)
    return experiment


def test_factor_script_accepts_rejects_accepts() -> None:
    """Three loops propose one, one and two factors, and the verdicts are yes, no, yes."""
    screenplay = Screenplay()
    verdicts, names = [], []
    for _ in range(3):
        hypothesis = propose(screenplay, "factors")
        names.append(list(describe(screenplay, "factors", hypothesis)))
        answer = screenplay.answer(Prompt(FACTOR_FEEDBACK, f"Target hypothesis: \n{hypothesis}\n"))
        verdicts.append(json.loads(answer)["Replace Best Result"])

    assert [len(factors) for factors in names] == [1, 1, 2]
    assert verdicts == ["yes", "no", "yes"]


def test_resumed_run_goes_on_after_its_history() -> None:
    """A new server that sees the first two experiments in the prompt proposes the third."""
    history = "\n".join(f"factor_name: {p.factors[0].name}" for p in FACTOR_SCRIPT[:2])

    assert propose(Screenplay(), "factors", history) == FACTOR_SCRIPT[2].hypothesis


def test_factor_run_goes_on_after_the_script() -> None:
    """Loops after the script get new factors, each rejected."""
    screenplay = Screenplay()
    hypotheses = [propose(screenplay, "factors") for _ in range(6)]
    answer = screenplay.answer(Prompt(FACTOR_FEEDBACK, hypotheses[-1]))

    assert len(set(hypotheses)) == 6
    assert json.loads(answer)["Replace Best Result"] == "no"


def test_every_model_is_new() -> None:
    """Neither a parallel loop with the same prompt nor a resumed run gets a model twice."""
    screenplay = Screenplay()
    first, second = propose(screenplay, "model tuning"), propose(screenplay, "model tuning")
    resumed = propose(Screenplay(), "model tuning", f"{first}\n{second}")
    models = [next(iter(describe(screenplay, "model tuning", text))) for text in (first, second, resumed)]

    assert models == ["ScriptedMLP1", "ScriptedMLP2", "ScriptedMLP3"]


def test_model_types_alternate_as_directed() -> None:
    """A screenplay with both types proposes them in turn, and code and description agree."""
    screenplay = Screenplay(model_types=(ModelType.TABULAR, ModelType.TIME_SERIES))
    hypotheses = [propose(screenplay, "model") for _ in range(2)]
    types = [
        next(iter(describe(screenplay, "model tuning", text).values()))["model_type"] for text in hypotheses
    ]
    user = "--------------Target model information:---------------\nname: ScriptedGRU2\n"
    code = screenplay.answer(Prompt("User is trying to implement some pytorch models", user))

    assert types == ["Tabular", "TimeSeries"]
    assert "nn.GRU" in json.loads(code)["code"]


def test_history_does_not_change_the_target() -> None:
    """The experiment described is the target hypothesis's, whatever the history after it names."""
    earlier = (
        "The former hypothesis and the corresponding feedbacks are as follows: " + FACTOR_SCRIPT[0].hypothesis
    )
    experiment = describe(Screenplay(), "factors", f"{FACTOR_SCRIPT[1].hypothesis}\n{earlier}")

    assert list(experiment) == ["VolumeLevel20"]


def test_quant_action_alternates_with_the_trials() -> None:
    """An LLM-chosen action is factor first, model next, and the hypothesis names its action."""
    system = "decide whether the next experiment should focus on factors or models"
    actions = [
        json.loads(Screenplay().answer(Prompt(system, trials)))["action"]
        for trials in ("first", "# Trial 1: \n", "# Trial 1: \n# Trial 2: \n")
    ]
    proposal = Screenplay().answer(Prompt(HYPOTHESES.format("model") + '{"action": ...}', FIRST_ROUND))

    assert actions == ["factor", "model", "factor"]
    assert json.loads(proposal)["action"] == "model"


def test_code_that_failed_is_not_approved() -> None:
    """The scripted reviewer does not approve code whose run failed."""
    system = "User has finished evaluation and got some feedback from the evaluator."
    good = Screenplay().answer(Prompt(system, "Execution succeeded without error."))
    bad = Screenplay().answer(Prompt(system, "Execution error: no module named x"))

    assert json.loads(good)["final_decision"] is True
    assert json.loads(bad)["final_decision"] is False


def test_unknown_prompt_is_an_error() -> None:
    """A prompt that the script does not know gets no invented answer."""
    with pytest.raises(UnscriptedPromptError, match="no answer"):
        Screenplay().answer(Prompt("Write a poem.", ""))


@pytest.mark.real
@pytest.mark.parametrize("model_type", list(ModelType))
def test_model_code_runs_and_is_repeatable(model_type: ModelType) -> None:
    """The model code defines ``model_cls``, maps a batch to one score each and is seeded."""
    import torch

    namespace: dict[str, object] = {}
    exec(compile(ModelProposal(1, model_type).code, "model.py", "exec"), namespace)
    arguments = {"num_features": 5} | ({"num_timesteps": 20} if model_type is ModelType.TIME_SERIES else {})
    batch = torch.ones((8, 20, 5) if model_type is ModelType.TIME_SERIES else (8, 5))
    scores = [namespace["model_cls"](**arguments)(batch) for _ in range(2)]  # type: ignore[operator]

    assert scores[0].shape == (8, 1)
    assert torch.equal(scores[0], scores[1])

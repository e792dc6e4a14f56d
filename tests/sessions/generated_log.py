"""Write a log as RD-Agent 1.0.0 would: its own classes, its own steps, its own signed dumps.

Only what costs a language model or a back-test is made up: texts, code and metrics. Run as a script
so that importing RD-Agent, which takes seconds and warns, stays out of the process that reads::

    python generated_log.py LOG_FOLDER '[{"kind": "factor", "accepted": true}, …]'
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "a signing key for tests, of more than thirty-two bytes"
METRICS = {
    "IC": 0.0125,
    "ICIR": 0.25,
    "Rank IC": 0.0375,
    "1day.excess_return_with_cost.max_drawdown": -0.0625,
}


@dataclass(frozen=True)
class PlannedLoop:
    """One loop to write.

    Attributes:
        kind: ``factor`` or ``model``.
        accepted: The feedback's decision.
        factors: Names of the factors to propose.
        failed: Those of them whose code the coder gives up on.
        skipped: Whether its back-test failed, so that it has no result.
        fed: Whether the plugin recorded SOTA factors on it.
    """

    kind: str = "factor"
    accepted: bool = True
    factors: tuple[str, ...] = ("Factor",)
    failed: tuple[str, ...] = ()
    skipped: bool = False
    fed: bool = False


def generate_log(log: Path, loops: Sequence[PlannedLoop], *, legacy: bool = False) -> Path:
    """Write a log in a process of its own and return its folder; its workspaces lie beside ``log``.

    Args:
        legacy: Write it as 0.8.0 does: plain pickles, four steps, no ``idx2loop_id`` or base features.
    """
    project = log.parent.parent
    project.mkdir(parents=True, exist_ok=True)
    environ = {
        **os.environ,
        "ARTIFACT_SIGNING_KEY": KEY,
        "HOME": str(project),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LOG_TRACE_PATH": str(log),
        "PYTHONWARNINGS": "ignore",
        "RDAGENT_SOTA_DISABLE": "true",
    }
    plan = json.dumps([asdict(loop) for loop in loops])
    command = [sys.executable, str(Path(__file__).resolve()), str(log), plan, *(["legacy"] if legacy else [])]
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"writing {log} failed:\n{done.stderr[-3000:]}")
    return log


def _write(log: Path, plan: list[PlannedLoop], *, legacy: bool) -> None:
    loop = _new_loop(log)
    steps = [step for step in loop.steps if not (legacy and step == "record")]
    for index, planned in enumerate(plan):
        outputs = loop.loop_prev_out[index]
        outputs[loop.LOOP_IDX_KEY] = index
        for step_index, step in enumerate(steps):
            outputs[step] = _STEPS[step](loop, planned, outputs)
            if legacy and step == "feedback":
                loop.trace.hist.append((outputs["running"], outputs["feedback"]))
            _note_time(loop, index, step_index)
            _dump(loop, log / "__session__" / str(index) / f"{step_index}_{step}", legacy=legacy)


def _new_loop(log: Path) -> Any:
    """What ``RDLoop.__init__`` makes, without asking a sandbox for its runtime description."""
    from rdagent.app.qlib_rd_loop.conf import FACTOR_PROP_SETTING
    from rdagent.app.qlib_rd_loop.factor import FactorRDLoop
    from rdagent.core.proposal import Trace
    from rdagent.core.utils import import_class
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorScenario
    from rdagent.utils.qlib import ALPHA20
    from rdagent.utils.workflow import LoopBase

    scenario = QlibFactorScenario.__new__(QlibFactorScenario)
    for part in ("background", "source_data", "output_format", "interface", "strategy", "simulator"):
        setattr(scenario, f"_{part}", f"{part} of the scenario " * 40)
    loop = FactorRDLoop.__new__(FactorRDLoop)
    settings = FACTOR_PROP_SETTING
    loop.hypothesis_gen = import_class(settings.hypothesis_gen)(scenario)
    loop.hypothesis2experiment = import_class(settings.hypothesis2experiment)()
    loop.coder = import_class(settings.coder)(scenario)
    loop.runner = import_class(settings.runner)(scenario)
    loop.summarizer = import_class(settings.summarizer)(scenario)
    loop.plan = {"features": ALPHA20, "feature_codes": {}}
    loop.trace = Trace(scen=scenario)
    LoopBase.__init__(loop)
    loop.session_folder = log / "__session__"
    return loop


def _propose(loop: Any, planned: PlannedLoop, _: dict[str, Any]) -> Any:
    from rdagent.core.proposal import Hypothesis
    from rdagent.scenarios.qlib.proposal.model_proposal import QlibModelHypothesis2Experiment

    number = len(loop.trace.hist)
    said = [f"{part} {number}" for part in ("hypothesis", "reason", "short", "seen", "why", "known")]
    hypothesis = Hypothesis(*said)
    if planned.kind == "factor":
        reply = {
            name: {
                "description": f"what {name} measures",
                "formulation": rf"\frac{{close}}{{open}} - {number}",
                "variables": {"close": "the closing price"},
            }
            for name in planned.factors
        }
        experiment = loop.hypothesis2experiment.convert_response(json.dumps(reply), hypothesis, loop.trace)
    else:
        model = {
            "description": "a small network",
            "formulation": "y = f(x)",
            "architecture": "one layer",
            "variables": {"x": "features"},
            "hyperparameters": {"width": "16"},
            "training_hyperparameters": {"n_epochs": "2", "lr": "1e-3"},
            "model_type": "Tabular",
        }
        experiment = QlibModelHypothesis2Experiment().convert_response(
            json.dumps({f"Net{number}": model}), hypothesis, loop.trace
        )
    for each in (experiment, *experiment.based_experiments[-1:]):
        each.base_features = loop.plan["features"]
        each.base_feature_codes = loop.plan["feature_codes"]
    return {"propose": hypothesis, "exp_gen": experiment}


def _code(_: Any, planned: PlannedLoop, outputs: dict[str, Any]) -> Any:
    from rdagent.components.coder.CoSTEER.evaluators import CoSTEERMultiFeedback, CoSTEERSingleFeedback
    from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace
    from rdagent.components.coder.model_coder.model import ModelFBWorkspace

    experiment = outputs["direct_exp_gen"]["exp_gen"]
    factor = planned.kind == "factor"
    spaces, verdicts = [], []
    for task in experiment.sub_tasks:
        space = (FactorFBWorkspace if factor else ModelFBWorkspace)(target_task=task)
        file = "factor.py" if factor else "model.py"
        space.inject_files(**{file: f"# {task.name}\n" + "value = close / open - 1\n" * 20})
        spaces.append(space)
        verdicts.append(CoSTEERSingleFeedback("ran", "checked", "read", task.name not in planned.failed))
    experiment.sub_workspace_list = spaces
    experiment.prop_dev_feedback = CoSTEERMultiFeedback(verdicts)
    return experiment


def _run(loop: Any, planned: PlannedLoop, outputs: dict[str, Any]) -> Any:
    import io

    import pandas as pd

    experiment = outputs["coding"]
    if planned.fed:
        experiment.sota_source = {"sota_factor_count": 1, "num_features": 21}
    if planned.skipped:
        return experiment
    # As QlibFBWorkspace.execute reads it.
    table = "\n".join([",0", *(f"{name},{value}" for name, value in METRICS.items())])
    experiment.result = pd.read_csv(io.StringIO(table), index_col=0).iloc[:, 0]
    experiment.stdout = f"best score after {len(loop.trace.hist)} epochs"
    return experiment


def _judge(_: Any, planned: PlannedLoop, __: dict[str, Any]) -> Any:
    from rdagent.core.proposal import HypothesisFeedback

    return HypothesisFeedback("because of its metrics", planned.accepted, observations="seen")


def _record(loop: Any, _: PlannedLoop, outputs: dict[str, Any]) -> None:
    loop.record(outputs)


_STEPS = {
    "direct_exp_gen": _propose,
    "coding": _code,
    "running": _run,
    "feedback": _judge,
    "record": _record,
}


def _note_time(loop: Any, index: int, step_index: int) -> None:
    from datetime import datetime, timezone

    from rdagent.utils.workflow.loop import LoopTrace

    now = datetime.now(timezone.utc)
    loop.loop_trace[index].append(LoopTrace(now, now, step_idx=step_index))
    loop.step_idx[index] = step_index + 1


def _dump(loop: Any, path: Path, *, legacy: bool) -> None:
    if not legacy:
        loop.dump(path)
        return
    del loop.trace.__dict__["idx2loop_id"]
    features = [(each, each.__dict__.pop("base_features")) for each in _experiments(loop)]
    codes = [(each, each.__dict__.pop("base_feature_codes")) for each in _experiments(loop)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(loop))
    loop.trace.idx2loop_id = {}
    for each, value in features:
        each.base_features = value
    for each, value in codes:
        each.base_feature_codes = value


def _experiments(loop: Any) -> list[Any]:
    outputs = [output["direct_exp_gen"]["exp_gen"] for output in loop.loop_prev_out.values()]
    found = {id(each): each for output in outputs for each in (output, *output.based_experiments)}
    return list(found.values())


if __name__ == "__main__":
    _write(
        Path(sys.argv[1]),
        [PlannedLoop(**loop) for loop in json.loads(sys.argv[2])],
        legacy=sys.argv[3:] == ["legacy"],
    )

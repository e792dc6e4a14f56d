"""What a model was really trained on, read from what Qlib left behind rather than from what was logged."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.sessions.records import Session
from rdagent_sota_patch.sessions.signature import MAGIC

_LOOK = """
import json, pickle, sys
artifacts = sys.argv[1]
task = pickle.load(open(artifacts + "/task", "rb"))
model = pickle.load(open(artifacts + "/params.pkl", "rb"))
dataset = pickle.load(open(artifacts + "/dataset", "rb"))
network = model.dnn_model
first = next(iter(network.parameters()))
handler = dataset.handler
(norm,) = (step for step in handler.infer_processors if type(step).__name__ == "RobustZScoreNorm")
# The baseline of RD-Agent 0.8.0 is Qlib's own handler, whose loaders are not named in the task.
named = task["dataset"]["kwargs"]["handler"]["kwargs"].get("data_loader")
loaders = named["kwargs"]["dataloader_l"] if named else []
print(json.dumps({
    "num_features": task["model"]["kwargs"]["pt_model_kwargs"]["num_features"],
    "input_size": int(first.shape[-1]),
    "fitted": [str(name[1]) for name in norm.cols],
    "loaders": [loader["class"] for loader in loaders],
    "feature_names": loaders[0]["kwargs"]["config"].get("feature", [[], []])[1] if loaders else [],
    "dataset": task["dataset"]["class"],
}))
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model's input, by its recorder (``task``), its weights and its fitted processors."""

    workspace: Path
    num_features: int
    input_size: int
    fitted: tuple[str, ...]
    loaders: tuple[str, ...]
    feature_names: tuple[str, ...]
    dataset: str


def look_at_training(sandbox: Sandbox, session: Session, position: int = -1) -> Trained:
    """Load the recorder of an experiment of ``session``; in a process of its own, as it runs the model's code."""
    workspace = Path(str(session.experiments[position].workspace))
    (artifacts,) = workspace.glob("mlruns/*/*/artifacts")
    output = subprocess.run(
        [sys.executable, "-c", _LOOK, str(artifacts)],
        cwd=workspace,
        env=sandbox.environment("look", {"PYTHONPATH": str(workspace)}),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return Trained(
        workspace=workspace,
        num_features=int(found["num_features"]),
        input_size=found["input_size"],
        fitted=tuple(found["fitted"]),
        loaders=tuple(found["loaders"]),
        feature_names=tuple(found["feature_names"]),
        dataset=found["dataset"],
    )


def usage_of(session: Session, position: int = -1) -> dict[str, Any]:
    """``sota_source.json`` of an experiment's workspace."""
    workspace = Path(str(session.experiments[position].workspace))
    return dict(json.loads((workspace / "sota_source.json").read_text(encoding="utf-8")))


def run_tool(sandbox: Sandbox, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``rdagent-sota`` in the sandbox's project, as its user would."""
    program = Path(sys.executable).with_name("rdagent-sota")
    return subprocess.run(
        [str(program), *arguments],
        cwd=sandbox.project,
        env=sandbox.environment("tool", settings),
        capture_output=True,
        text=True,
        check=False,
    )


def load_snapshot(sandbox: Sandbox, snapshot: Path, *, plugin: bool) -> str:
    """Have RD-Agent itself load a snapshot; returns its runner's class, and the module that develops."""
    code = (
        "import sys\n"
        "from rdagent.app.qlib_rd_loop.model import ModelRDLoop\n"
        "runner = ModelRDLoop.load(sys.argv[1]).runner\n"
        "ours = any(name.startswith('rdagent_sota_patch.plugin') for name in sys.modules)\n"
        "print(type(runner).__module__, type(runner).__qualname__, type(runner).develop.__module__, ours)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(snapshot)],
        cwd=sandbox.project,
        env=sandbox.environment("load", {} if plugin else {"RDAGENT_SOTA_DISABLE": "true"}),
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout.splitlines()[-1]


def global_names(snapshot: Path) -> set[str]:
    """Every module that a snapshot's pickle names, by pickletools: nothing is loaded."""
    import pickletools

    payload = snapshot.read_bytes()
    if payload.startswith(MAGIC):
        payload = payload[len(MAGIC) + 32 :]
    assert payload[:1] == pickle.PROTO
    strings: list[str] = []
    modules: set[str] = set()
    for opcode, argument, _ in pickletools.genops(payload):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            strings.append(str(argument))
        elif opcode.name == "GLOBAL":
            modules.add(str(argument).split(" ", maxsplit=1)[0])
        elif opcode.name == "STACK_GLOBAL":
            # Module and name are among the last strings pushed or recalled; any string may be a module.
            modules.update(strings[-2:])
    return modules

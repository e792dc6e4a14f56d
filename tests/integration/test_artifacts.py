"""Real runs record which weights were back-tested, and their sessions keep the accepted ones."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.demo.llm import Screenplay
from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

from .conftest import RealRun

pytestmark = pytest.mark.real

# What the user's notes document, run by an RD-Agent that has never heard of the plugin.
_READERS_WAY = """
import hashlib, json, sys
from rdagent.app.qlib_rd_loop.factor import FactorRDLoop
loop = FactorRDLoop.load(sys.argv[1])
accepted = [exp for exp, feedback in loop.trace.hist if feedback.decision and "Factor" in type(exp).__name__]
(weights,) = [
    space.file_dict["model.pkl"]
    for space in accepted[-1].sub_workspace_list
    if space and "model.pkl" in space.file_dict
]
print(json.dumps({
    "sha256": hashlib.sha256(weights).hexdigest(),
    "code": accepted[-1].sub_workspace_list[0].file_dict["factor.py"],
    "plugin": any(name.startswith("rdagent_sota_patch.plugin") for name in sys.modules),
}))
"""


def weights_of(record: ExperimentRecord) -> Path:
    """The weights that a record names, held to their size and SHA-256."""
    artifacts = record.artifacts
    assert artifacts is not None
    assert Path(artifacts["path"]).is_relative_to(str(record.workspace))
    assert Path(artifacts["path"]).parts[-2:] == (artifacts["experiment_id"], artifacts["run_id"])
    weights = Path(artifacts["path"], "artifacts", artifacts["weights"]["name"])
    data = weights.read_bytes()
    assert artifacts["weights"]["size"] == len(data)
    assert artifacts["weights"]["sha256"] == hashlib.sha256(data).hexdigest()
    return weights


def look_as_documented(sandbox: Sandbox, snapshot: Path) -> dict[str, Any]:
    output = subprocess.run(
        [sys.executable, "-c", _READERS_WAY, str(snapshot)],
        cwd=sandbox.project,
        env=sandbox.environment("look", {"RDAGENT_SOTA_DISABLE": "true"}),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return dict(json.loads(output.splitlines()[-1]))


def test_factor_stage_keeps_the_last_accepted_weights(sandbox: Sandbox, factor_run: RealRun) -> None:
    """Accepted, rejected, accepted: all recorded, the last kept; found as documented, without the plugin."""
    experiments = factor_run.session.experiments
    recorded = [weights_of(record) for record in experiments]
    assert len(set(recorded)) == 3
    assert [record.embedded_weights is not None for record in experiments] == [False, False, True]
    assert experiments[-1].embedded_weights == recorded[-1].read_bytes()
    assert [record.artifacts["embedded"] for record in experiments if record.artifacts] == [
        False,
        False,
        True,
    ]
    found = look_as_documented(sandbox, factor_run.session.snapshot)
    assert found["sha256"] == hashlib.sha256(recorded[-1].read_bytes()).hexdigest()
    assert found["code"] == experiments[-1].factors[0].code
    assert found["plugin"] is False


def test_rejected_loop_keeps_the_accepted_ones(sandbox: Sandbox, factor_run: RealRun) -> None:
    """After the rejected second loop, the session still has the first one's weights."""
    snapshots = sorted(factor_run.result.log.glob("__session__/1/*"))
    first, second = sandbox.session(snapshots[-1]).experiments
    assert (first.decision, second.decision) == (True, False)
    assert first.embedded_weights == weights_of(first).read_bytes()
    assert second.embedded_weights is None


def test_weights_are_not_in_rdagents_own_files(factor_run: RealRun, sandbox: Sandbox) -> None:
    """Neither its log objects nor its run cache hold them: only sessions do."""
    sota = factor_run.session.sota
    assert sota is not None and sota.embedded_weights is not None
    cache = Path(factor_run.cache["PICKLE_CACHE_FOLDER_PATH_STR"])
    files = [
        path
        for folder in (factor_run.result.log, cache)
        for path in folder.rglob("*.pkl")
        if "__session__" not in path.parts
    ]
    assert files
    assert not [path for path in files if sota.embedded_weights in path.read_bytes()]


def test_model_stages_record_their_models(off: RealRun, both: RealRun) -> None:
    """A model run, with nothing set or on SOTA factors, has its accepted model's weights in the session."""
    for run in (off, both):
        (record,) = run.session.experiments
        weights = weights_of(record)
        assert record.decision and record.embedded_weights == weights.read_bytes()


def test_steps_in_processes_of_their_own(parallel: RealRun) -> None:
    """RD-Agent's parallel mode sends experiments from process to process; their records stay."""
    experiments = parallel.session.experiments
    assert [weights_of(record).is_file() for record in experiments] == [True, True]
    assert [record.embedded_weights is not None for record in experiments] == [False, True]


def test_resumed_without_and_with_the_plugin(sandbox: Sandbox, factor_run: RealRun) -> None:
    """Later loops execute the accepted factors again, which hold no bytes: without the plugin, then with it."""
    folder = sandbox.logs / "kept-weights"
    environment = {"PICKLE_CACHE_FOLDER_PATH_STR": str(sandbox.project / "cache-kept-weights")}
    accepting = Screenplay(accept_factors=True)
    begun = sandbox.run("fin_factor", loops=1, name=folder.name, environment=environment)
    (first,) = sandbox.session(begun.log).experiments
    assert first.embedded_weights is not None

    def resume(loops: int, **more: str) -> Session:
        resumed = sandbox.run(
            "fin_factor",
            loops=loops,
            name=folder.name,
            resume=begun.log / "__session__",
            environment={**environment, **more},
            screenplay=accepting,
        )
        return sandbox.session(resumed.log)

    without = resume(2, RDAGENT_SOTA_DISABLE="true").experiments
    assert [(record.decision, record.artifacts is not None) for record in without] == [
        (True, True),
        (True, False),
    ]
    assert len(without[1].based_on) == 1
    again = resume(3).experiments
    assert [record.decision for record in again] == [True, True, True]
    # What was accepted in between is recorded, too; the first one's weights are not carried along any more.
    assert [weights_of(record).is_file() for record in again] == [True, True, True]
    assert [record.embedded_weights is not None for record in again] == [False, False, True]

"""``rdagent-sota run`` with the real ``rdagent``: killed during a back-test, and gone on with."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.stages.state import read_state
from tests.integration.conftest import BriefTraining
from tests.integration.evidence import usage_of
from tests.integration.warm_sandbox import COLD_START

pytestmark = pytest.mark.real

# No other run has it: what survives is found by it.
NAME = "killed"
PROGRAM = str(Path(sys.executable).with_name("rdagent-sota"))


def survivors(sandbox: Sandbox) -> list[str]:
    """The command lines of processes that have this run's environment."""
    marks = {f"OPENAI_API_KEY={NAME}".encode(), f"HOME={sandbox.home}".encode()}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marks <= set((process / "environ").read_bytes().split(b"\0")):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # Ended meanwhile, or somebody else's.
    return found


def kill_during_the_back_test(sandbox: Sandbox) -> None:
    """Start both stages and kill the whole group some seconds into the model stage's ``running``."""
    process = subprocess.Popen(
        [PROGRAM, "run", "--factor-loops", "1", "--model-loops", "1", "--alpha"],
        cwd=sandbox.project,
        env=sandbox.environment(NAME, COLD_START),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("model stage: loop 1 of 1, back-testing"):
                break
        else:
            pytest.fail("".join(said))
        deadline = time.monotonic() + 60
        while not any("qrun" in command for command in survivors(sandbox)):
            assert time.monotonic() < deadline, "the back-test never began"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while left := survivors(sandbox):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def resume(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "run", "--resume", *arguments],
        cwd=sandbox.project,
        env=sandbox.environment(NAME, {"COLUMNS": "160", **COLD_START}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("nothing_else_runs")  # A busy machine takes longer to end what was killed.
def test_killed_during_the_back_test_and_gone_on_with(sandbox: Sandbox) -> None:
    """Nothing is left running; the interrupted step alone is done again; the table has the model."""
    sandbox.llm.direct(NAME, BriefTraining())
    kill_during_the_back_test(sandbox)
    (folder,) = sandbox.logs.glob("*-run")
    state = read_state(folder)
    assert state.factor.done and not state.model.done
    assert state.model.log is not None

    result, loops = resume(sandbox, str(folder), "--json"), 1
    # About one back-test in ten fails in MLflow, and RD-Agent skips its loop: then one more is asked for.
    while "no-model-result" in result.stdout and loops < 4:
        loops += 1
        result = resume(sandbox, str(folder), "--model-loops", str(loops), "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    document: dict[str, Any] = json.loads(result.stdout)

    (model,) = document["model"]["loops"]
    assert math.isfinite(model["metrics"]["IC"])
    assert Path(model["workspace"], "qlib_res.csv").is_file()
    usage = usage_of(sandbox.session(state.model.log))
    assert usage["source"]["path"] == document["factor"]["log"] == str(state.factor.log)
    assert [factor["name"] for factor in usage["factors"]] == document["factor"]["sota"]["factors"]
    assert usage["num_features"] == 20 + len(usage["factors"])

    output = (folder / "model.txt").read_text(encoding="utf-8")
    assert output.count("Start Loop 0, Step 1: coding") == 1
    assert output.count("Start Loop 0, Step 2: running") == 2

    table = resume(sandbox, str(folder)).stdout
    assert "factor stage" in table and model["name"] in table and f"{model['metrics']['IC']:.4f}" in table

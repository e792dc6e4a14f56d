"""Where the factors come from when they are not where they were, and what happens when they are nowhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.factor_table.table import read_factor_table
from tests.integration.conftest import RealRun, from_log, table_of
from tests.integration.evidence import look_at_training, run_tool

pytestmark = pytest.mark.real


# Some of these tests move the factors away or write ``.env``, which no other run should meet.
alone_in_the_sandbox = pytest.mark.usefixtures("nothing_else_runs")


@contextmanager
def moved(workspace: Path, target: Path) -> Iterator[Path]:
    """Move a workspace away for a while."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(workspace, target)
    try:
        yield target
    finally:
        shutil.move(target, workspace)


@alone_in_the_sandbox
def test_moved_workspace(sandbox: Sandbox, factor_run: RealRun, tmp_path: Path) -> None:
    """A workspace that was moved is found under SOTA_WORKSPACE_ROOT, spaces and other scripts in its path."""
    workspace = table_of(factor_run).parent
    root = tmp_path / "moved 工作区"
    with moved(workspace, root / workspace.name):
        found = run_tool(sandbox, "doctor", "--json", **from_log(factor_run, SOTA_WORKSPACE_ROOT=str(root)))
    diagnosis = json.loads(found.stdout)
    assert found.returncode == 0, diagnosis
    assert diagnosis["source"]["workspace"] == str(root / workspace.name)


@alone_in_the_sandbox
def test_rebuilt_table_equals_the_original(sandbox: Sandbox, factor_run: RealRun, tmp_path: Path) -> None:
    """With the workspace gone, the accepted factors' code makes the same table again, to the last bit."""
    original = table_of(factor_run)
    expected = pd.read_parquet(original)
    target = tmp_path / "rebuilt.parquet"
    with moved(original.parent, tmp_path / "gone"):
        diagnosis = json.loads(run_tool(sandbox, "doctor", "--json", **from_log(factor_run)).stdout)
        assert [notice["slug"] for notice in diagnosis["notices"]] == ["table-rebuild"]
        # A cache of its own, so that every factor's code really runs.
        saved = run_tool(
            sandbox,
            "save",
            str(factor_run.result.log),
            "--out",
            str(target),
            PICKLE_CACHE_FOLDER_PATH_STR=str(tmp_path / "cache"),
        )
        assert saved.returncode == 0, saved.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(target), expected, check_exact=True)
    assert read_factor_table(target).fingerprint == read_factor_table(original).fingerprint
    assert "Rebuilding SOTA factors" in saved.stderr


@pytest.mark.usefixtures("runs")  # It needs none, and so is the first test, which begins them.
def test_broken_source_stops_before_the_first_llm_call(sandbox: Sandbox) -> None:
    """A log that does not exist: exit code 1, one message, no LLM call."""
    result = sandbox.run(
        "fin_model",
        loops=1,
        name="broken",
        environment={"LOAD_SOTA_FROM_LOG": "true", "SOTA_LOG_PATH": "log/没有"},
        check=False,
    )
    assert result.exit_code == 1
    assert "Log path does not exist: log/没有" in result.output
    assert "[log-not-found]" in result.output
    assert "Traceback" not in result.output
    assert "Start Loop" not in result.output
    assert not [record for record in sandbox.llm.records if record.run == "broken"]


def test_lenient_run_goes_on_as_plain_rdagent(sandbox: Sandbox, off: RealRun) -> None:
    """SOTA_STRICT off: the same fault is a warning, and the run is plain RD-Agent's, to the key of its cache."""
    result = sandbox.run(
        "fin_model",
        loops=1,
        name="lenient",
        environment={
            "LOAD_SOTA_FROM_LOG": "true",
            "SOTA_LOG_PATH": "log/nowhere",
            "SOTA_STRICT": "off",
            **off.cache,
        },
    )
    assert "Log path does not exist" in result.output
    experiment = sandbox.session(result.log).experiments[0]
    assert dict(experiment.metrics) == dict(off.session.experiments[0].metrics)
    assert experiment.sota_source is None


@alone_in_the_sandbox
def test_own_runner_from_dotenv_composes(sandbox: Sandbox, factor_run: RealRun, both: RealRun) -> None:
    """A QLIB_MODEL_RUNNER from ``.env`` is used, and is fed; the settings come from the same file."""
    (sandbox.project / "my_runner.py").write_text(
        "from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner\n"
        "class MyRunner(QlibModelRunner):\n"
        "    def develop(self, exp):\n"
        "        print('my runner was here')\n"
        "        return super().develop(exp)\n",
        encoding="utf-8",
    )
    settings = from_log(factor_run, QLIB_MODEL_RUNNER="my_runner.MyRunner", USE_ALPHA_FACTORS="true")
    dotenv = sandbox.project / ".env"
    dotenv.write_text("".join(f'{name}="{value}"\n' for name, value in settings.items()), encoding="utf-8")
    try:
        result = sandbox.run(
            "fin_model",
            loops=1,
            name="own-runner",
            environment={"PYTHONPATH": str(sandbox.project), **both.cache},
        )
    finally:
        dotenv.unlink()
    assert "my runner was here" in result.output
    usage = sandbox.session(result.log).experiments[0].sota_source
    assert usage is not None and usage["num_features"] == 23


def test_fin_quant(sandbox: Sandbox, quant: RealRun) -> None:
    """``fin_quant``'s model action stands on the SOTA factors, and on those that this run itself accepted."""
    session = quant.session
    assert [experiment.kind.value for experiment in session.experiments] == ["factor", "model"]
    usage = session.experiments[1].sota_source
    assert usage is not None
    trained = look_at_training(sandbox, session)
    assert trained.input_size == trained.num_features == usage["num_features"] >= 23
    assert set(usage["feature_order"]) == set(trained.fitted)
    assert usage["proof"]["status"] == "proven"
    factors = session.experiments[0].sota_source
    assert factors is not None and factors["proof"]["status"] == "proven"
    assert set(factors["feature_order"]) >= set(factors["table_factors"])

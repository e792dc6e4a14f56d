"""``rdagent-sota run`` as people use it, with a stand-in for ``rdagent``."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_patch.cli import app
from rdagent_sota_patch.plugin.hand_edits import Effect, HandEdit
from rdagent_sota_patch.stages.state import read_state
from tests.sessions.generated_log import METRICS
from tests.stages.conftest import (
    Standin,
    begin,
    end,
    is_alive,
    prepared,
    project,
    standin,
    started,
    wait_until_gone,
)

__all__ = ["prepared", "project", "standin"]  # Fixtures.


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def the_run(project: Path) -> Path:
    (folder,) = (project / "log").glob("*-run")
    return folder


def test_table_sets_models_against_the_factor_stage(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row for the factor stage, one for each model, and where everything is."""
    monkeypatch.setenv("COLUMNS", "160")
    result = run("--factor-loops", 3, "--model-loops", 2, "--alpha")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.strip()]
    figures = ["0.0125", "0.250", "0.0375", "-6.25%"]
    assert ["2", "factor", "stage", "accepted", *figures] in rows
    assert ["0", "Net0", "Tabular", "accepted", *figures] in rows
    assert ["1", "Net1", "Tabular", "rejected", *figures] in rows
    assert any(row[:2] == ["model", "log"] for row in rows)
    assert "model stage: loop 2 of 2, back-testing; 1 accepted, best IC 0.0125" in result.stderr


def test_json_is_one_object(standin: Standin, project: Path) -> None:
    """Progress stays on stderr."""
    result = run("--factor-loops", 3, "--model-loops", 3, "--no-alpha", "--json")
    document = json.loads(result.stdout)
    assert document["folder"] == str(the_run(project)) and document["alpha"] is False
    assert document["factor"]["sota"]["factors"] == ["Gap3"]
    assert document["factor"]["sota"]["metrics"] == METRICS
    assert [one["name"] for one in document["model"]["loops"]] == ["Net0", "Net1"]
    assert document["model"]["best_loop"] == 0
    assert document["model"]["skipped"] == [{"loop": 2, "reason": "no reason in its output"}]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model-loops", 2],
        ["--factor-loops", 2],
        ["--factor-loops", 0, "--model-loops", 2],
        ["--factor-loops", 2, "--model-loops", 2, "--duration", "a while"],
        ["--factor-loops", 2, "--model-loops", 2, "--factor-log", "latest"],
        ["log/some-run", "--factor-loops", 2, "--model-loops", 2],
    ],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_bad_usage(standin: Standin, project: Path, arguments: list[object]) -> None:
    """Exit code 2 before anything is made."""
    assert run(*arguments).exit_code == 2
    assert list(project.iterdir()) == []


def test_a_runner_that_cannot_be_fed_is_told_before_the_factor_stage(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stage would stop at it, hours later."""
    pytest.importorskip("rdagent")
    monkeypatch.setenv("QLIB_MODEL_RUNNER", "rdagent.scenarios.qlib.developer.factor_runner.QlibFactorRunner")
    result = run("--factor-loops", 1, "--model-loops", 1, "--json")
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert problem["slug"] == "runner-without-sota" and "QlibFactorRunner" in problem["message"]
    assert standin.calls == []


@pytest.mark.parametrize("switch", ["LOAD_SOTA_FROM_LOG", "LOAD_SOTA_FROM_WORKSPACE", "SAVE_SOTA_FACTORS"])
def test_a_hand_edit_is_told_before_the_factor_stage(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    """Unless its switch is one that the model stage will not have on, whatever the environment says."""
    pytest.importorskip("rdagent")
    edit = HandEdit(Path("runner.py"), 7, switch, Effect.REPLACES)
    monkeypatch.setattr("rdagent_sota_patch.cli.run.find_hand_edits", lambda source: (edit,))
    monkeypatch.setenv("SAVE_SOTA_FACTORS", "true")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    result = run("--factor-log", "nowhere", "--model-loops", 1, "--json")
    slugs = [problem["slug"] for problem in json.loads(result.stdout)["problems"]]
    assert slugs == ["log-not-found" if switch == "LOAD_SOTA_FROM_WORKSPACE" else "hand-edit"]


def test_disabled_plugin_is_told_before_the_factor_stage(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after a night of mining."""
    monkeypatch.setenv("RDAGENT_SOTA_DISABLE", "1")
    result = run("--factor-loops", 1, "--model-loops", 1, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"][0]["slug"] == "not-active"
    assert standin.calls == []


def test_latest_is_settled_once(standin: Standin, project: Path) -> None:
    """``--factor-log latest`` is kept as the log that it meant."""
    assert run("--factor-loops", 3, "--model-loops", 1).exit_code == 0
    first = read_state(the_run(project)).factor.log
    result = run("--factor-log", "latest", "--model-loops", 2, "--alpha")
    assert result.exit_code == 0, result.output
    assert standin.calls[2]["SOTA_LOG_PATH"] == str(first)
    folder = max((project / "log").glob("*-run"))
    again = run("--resume", folder, "--factor-log", "latest", "--model-loops", 2, "--alpha")
    assert again.exit_code == 0, again.output


def test_failure_is_a_problem_with_a_next_step(standin: Standin) -> None:
    """Exit code 1, the tail, and the command to go on with, which then does."""
    standin.order("fin_model", (1, 2), "fail")
    result = run("--factor-loops", 3, "--model-loops", 2)
    assert result.exit_code == 1
    assert "Incorrect API key" in result.stderr and "rdagent-sota run --resume" in result.stderr
    resumed = run("--factor-loops", 3, "--model-loops", 2, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert [call["arguments"][0] for call in standin.calls] == ["fin_factor", "fin_model", "fin_model"]


def test_nothing_to_resume(standin: Standin) -> None:
    """Exit code 1 rather than a new run."""
    result = run("--resume", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["problems"][0]["slug"] == "nothing-to-resume"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_goes_on(standin: Standin, project: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM: the child is gone, the way on is told, and taken."""
    standin.order("fin_model", (1, 2), "hang")
    with started(standin, "--factor-loops", 3, "--model-loops", 2) as process:
        _, said = end(process, number)
    assert process.returncode == 128 + number
    assert "[run-interrupted]" in said and f"--resume {the_run(project)}" in said
    assert not is_alive(standin.calls[1]["pid"])
    assert run("--resume", the_run(project)).exit_code == 0
    assert standin.calls[2]["arguments"][-1].endswith("/__session__/1/1_coding")


@pytest.mark.parametrize("do", ["hang", "tear"])
def test_killed_run_goes_on(standin: Standin, project: Path, do: str) -> None:
    """After kill -9, also in the middle of writing a snapshot: nothing is left behind, and nothing is lost."""
    standin.order("fin_model", (1, 2), do)
    with started(standin, "--factor-loops", 3, "--model-loops", 2) as process:
        end(process, signal.SIGKILL, group=True)
    wait_until_gone(standin.calls[1]["pid"])
    result = run("--resume", "--json")
    assert result.exit_code == 0, result.output
    assert [one["loop"] for one in json.loads(result.stdout)["model"]["loops"]] == [0, 1]
    assert standin.calls[2]["arguments"][-1].endswith("/__session__/1/1_coding")


def test_second_at_the_same_time_is_refused(standin: Standin, project: Path) -> None:
    """And the first goes on undisturbed."""
    standin.order("fin_factor", (1, 2), "hang")
    with started(standin, "--factor-loops", 3, "--model-loops", 2) as process:
        result = run("--resume", the_run(project), "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["problems"][0]["slug"] == "run-in-use"
        assert process.poll() is None


def test_run_elsewhere_is_refused(standin: Standin, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder, RD-Agent would not be the same."""
    folder = begin()
    monkeypatch.chdir(project.parent)
    result = run("--resume", folder)
    assert result.exit_code == 1 and "[run-elsewhere]" in result.stderr

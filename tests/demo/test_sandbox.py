from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.synthetic_market import Segments
from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.stages import both as program_module


def install_rdagent(script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script in the place of the ``rdagent`` program."""
    program = folder / "scripts" / "rdagent"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(program_module, "scripts_folder", lambda: program.parent)


def test_users_environment_stays_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, settings and HOME of the user do not reach a run."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("AZURE_API_KEY", "secret")
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    with Sandbox(tmp_path) as sandbox:
        environment = sandbox.environment("first")

    assert not {"AZURE_API_KEY", "LOAD_SOTA_FROM_LOG", "HTTPS_PROXY"} & set(environment)
    assert "secret" not in " ".join(environment.values())
    assert Path(environment["HOME"]).parent == tmp_path
    assert environment["OPENAI_API_BASE"].startswith("http://127.0.0.1:")
    assert environment["PATH"].split(os.pathsep)[0] == str(tmp_path / "bin")


def test_variables_of_a_run_come_last(tmp_path: Path) -> None:
    """What a run is given takes the place of the sandbox's own value."""
    with Sandbox(tmp_path) as sandbox:
        environment = sandbox.environment("first", {"CHAT_STREAM": "True", "USE_ALPHA_FACTORS": "true"})

    assert environment["CHAT_STREAM"] == environment["USE_ALPHA_FACTORS"].title() == "True"


def test_segments_become_settings() -> None:
    """The dates are set for all three commands."""
    variables = Segments(test=(date(2020, 1, 1), date(2020, 2, 2))).variables()

    assert len(variables) == 18
    assert variables["QLIB_QUANT_TEST_END"] == "2020-02-02"


def test_market_is_written_once(tmp_path: Path) -> None:
    """Opening a sandbox again leaves its market as it is."""
    with Sandbox(tmp_path) as sandbox:
        day = sandbox.qlib_data / "calendars" / "day.txt"
        written = day.stat().st_mtime_ns
    with Sandbox(tmp_path):
        assert day.stat().st_mtime_ns == written


def test_run_is_in_the_project_with_its_log_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run gets its arguments, the private project as its folder, and the log folder fixed beforehand."""
    install_rdagent('echo "$@"; pwd; echo $LOG_TRACE_PATH', tmp_path, monkeypatch)
    with Sandbox(tmp_path / "box") as sandbox:
        session = sandbox.logs / "first" / "__session__"
        result = sandbox.run("fin_model", loops=2, name="first", resume=session)

    arguments, folder, log = result.output.splitlines()
    assert arguments == f"fin_model --loop-n 2 --path {session}"
    assert Path(folder) == sandbox.project
    assert Path(log) == result.log == sandbox.logs / "first"


@pytest.mark.parametrize("script", ["echo the reason; exit 1", "echo the reason; echo Skip loop 0 due to x"])
def test_failed_run_is_an_error_with_its_output(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed run, and one that skipped a loop, raises with the end of the output and where the rest is."""
    install_rdagent(script, tmp_path, monkeypatch)
    with Sandbox(tmp_path / "box") as sandbox:
        with pytest.raises(SotaError, match="the reason") as failed:
            sandbox.run("fin_factor", loops=1, name="first")
        unchecked = sandbox.run("fin_factor", loops=1, name="second", check=False)

    assert failed.value.slug == "run-failed"
    assert "output" in failed.value.problems[0].hint
    assert unchecked.failure


def test_log_of_another_run_is_not_reused(tmp_path: Path) -> None:
    """A new run cannot write into the log folder of an earlier one."""
    with Sandbox(tmp_path) as sandbox:
        (sandbox.logs / "first").mkdir()
        with pytest.raises(ValueError, match="another run's log"):
            sandbox.run("fin_factor", loops=1, name="first")


def test_missing_host_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an ``rdagent`` program the error says what to install."""
    monkeypatch.setattr(program_module, "scripts_folder", lambda: tmp_path)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with Sandbox(tmp_path / "box") as sandbox, pytest.raises(HostError, match="no rdagent program"):
        sandbox.run("fin_factor", loops=1, name="first")

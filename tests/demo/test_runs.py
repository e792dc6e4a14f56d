from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rdagent_sota_patch.demo.sandbox import RunResult, follow
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.progress import Step


def run_shell(
    script: str, folder: Path, *, steps: list[Step] | None = None, timeout: float = 20
) -> RunResult:
    """Follow a shell script in place of RD-Agent."""
    return follow(
        ["/bin/sh", "-c", script],
        cwd=folder,
        variables={"PATH": os.defpath, "GREETING": "hello"},
        log=folder / "log",
        output_file=folder / "output.txt",
        on_step=None if steps is None else steps.append,
        timeout=timeout,
    )


def test_steps_are_reported_as_they_begin(tmp_path: Path) -> None:
    """Each step that RD-Agent logs is reported, colours or not."""
    steps: list[Step] = []
    script = r"printf '\033[32mStart Loop 0, Step 0: coding\033[0m\nStart Loop 2, Step 1: running\n'"
    result = run_shell(script, tmp_path, steps=steps)

    assert steps == [Step(0, 0, "coding"), Step(2, 1, "running")]
    assert result.failure == ""


def test_skipped_loop_is_a_failure(tmp_path: Path) -> None:
    """A run that ends with exit code 0 after a skipped loop did not succeed."""
    result = run_shell("echo 'Skip loop 1 due to No data found'", tmp_path)

    assert result.exit_code == 0
    assert result.skipped == ((1, "No data found"),)
    assert "skipped loop 1" in result.failure


def test_output_and_exit_code_are_kept(tmp_path: Path) -> None:
    """Standard output and error are both written down, in the environment given and no other."""
    result = run_shell("echo $GREETING; echo broken >&2; echo [$HOME]; exit 4", tmp_path)

    assert result.output.splitlines() == ["hello", "broken", "[]"]
    assert result.exit_code == 4
    assert "exit code 4" in result.failure


def test_late_run_is_stopped(tmp_path: Path) -> None:
    """A run that takes too long is ended with what it started, and that is an error."""
    started = time.monotonic()
    with pytest.raises(SotaError, match="stopped after") as stopped:
        run_shell("echo begun; sleep 30 & sleep 30", tmp_path, timeout=0.5)

    assert stopped.value.slug == "run-failed"
    assert time.monotonic() - started < 10
    assert (tmp_path / "output.txt").read_text(encoding="utf-8") == "begun\n"

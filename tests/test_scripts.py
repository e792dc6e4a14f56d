"""The shell scripts in docs/, with stand-ins for the programs they start."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
SCRIPT = DOCS / "run-both-stages.sh"


def run_script(folder: Path, **variables: str) -> tuple[int, list[str]]:
    """Run it with programs that write down what they are asked; returns that."""
    programs = folder / "bin"
    programs.mkdir()
    noted = 'echo "$(basename "$0") $* log=$LOG_TRACE_PATH sota=$SOTA_LOG_PATH" >> "$CALLS"\n'
    for name, after in (("rdagent", ""), ("rdagent-sota", '[ "$1" != doctor ] || exit "${DOCTOR:-0}"\n')):
        (programs / name).write_text(f"#!/bin/sh\n{noted}{after}")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT)],
        cwd=folder,
        env={"PATH": f"{programs}:/usr/bin:/bin", "CALLS": str(folder / "calls"), **variables},
        capture_output=True,
        check=False,
    )
    return done.returncode, (folder / "calls").read_text().splitlines()


def test_model_stage_is_told_the_factor_log(tmp_path: Path) -> None:
    """The script fixes the log beforehand, asks doctor, and runs the second stage on it."""
    code, calls = run_script(tmp_path, FACTOR_LOOPS="3", MODEL_LOOPS="2", DURATION="8h")
    assert code == 0
    log = calls[0].partition(" log=")[2].partition(" ")[0]
    assert calls[0].startswith("rdagent fin_factor --loop-n 3 --all-duration 8h ")
    assert log.startswith(f"{tmp_path}/log/") and log.endswith("-factor")
    assert calls[1] == f"rdagent-sota doctor log= sota={log}"
    assert calls[2].startswith("rdagent fin_model --loop-n 2 ") and calls[2].endswith(f"sota={log}")


def test_script_ends_where_doctor_finds_a_problem(tmp_path: Path) -> None:
    """Nothing accepted: no model stage."""
    code, calls = run_script(tmp_path, FACTOR_LOG="/a/log", DOCTOR="1")
    assert code == 1
    assert calls == ["rdagent-sota doctor log= sota=/a/log"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_scripts_are_shellcheck_clean() -> None:
    """People start from these; they are to be above reproach."""
    done = subprocess.run(
        ["shellcheck", *map(str, DOCS.glob("*.sh"))], capture_output=True, text=True, check=False
    )
    assert done.stdout == "" and done.returncode == 0

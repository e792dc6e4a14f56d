"""The application itself: help, completion, how soon it is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rdagent_sota_patch.cli import app

# pydantic is not among them: recent Typer imports it itself.
_HEAVY = (
    "numpy",
    "pandas",
    "pyarrow",
    "torch",
    "qlib",
    "rdagent",
    "fastapi",
    "httpx",
    "yaml",
    "pydantic_settings",
)
_GROUP = typer.main.get_command(app)
COMMANDS = sorted(_GROUP.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    """Help is for people who wait: it comes without the libraries that only the work needs."""
    arguments = [*command.split(), "--help"]
    code = (
        "import sys\nfrom rdagent_sota_patch.cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('heavy:', [name for name in {_HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize("command", ["", *COMMANDS, "patch check"])
def test_the_short_flag_is_help(command: str) -> None:
    """``-h`` is what ``--help`` is, for each command."""
    short, long = (CliRunner().invoke(app, [*command.split(), flag]) for flag in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout


def test_completion_is_there_for_a_shell(tmp_path: Path) -> None:
    """``--show-completion`` prints the shell's script, and that script's question is answered with commands."""
    program = str(Path(sys.executable).parent / "rdagent-sota")
    listed = subprocess.run(
        [program],
        env={
            **os.environ,
            "_RDAGENT_SOTA_COMPLETE": "complete_bash",
            "COMP_WORDS": "rdagent-sota pre",
            "COMP_CWORD": "1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert listed.stdout.split() == ["predict"]
    help_text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).stdout
    assert "--install-completion" in help_text and "--show-completion" in help_text

"""``rdagent-sota patch``: text, ``--json`` and exit codes, on a made-up RD-Agent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from rdagent_sota_patch.cli import app
from rdagent_sota_patch.errors import Problem
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.patching.source import inspect_source
from rdagent_sota_patch.plugin import host_check
from tests.patching.released import LOOP, OLDER, RUNNER, read_source, write_source

ACTIONS = ("show", "check", "apply", "revert")
REFUSAL = Problem("host-changed", "RD-Agent (there): something is otherwise.", "Do this.")


@pytest.fixture(autouse=True)
def works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin works in the made-up RD-Agent."""
    monkeypatch.setattr(host_check, "host_problems", lambda root: ())


def run(action: str, root: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["patch", action, "--source", str(root), *options])


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_apply_check_revert(tmp_path: Path, newline: bytes) -> None:
    """The way there and back, each step said in a sentence; a step done twice says that there is nothing to do."""
    originals = write_source(tmp_path, newline)
    for action, words in (
        ("check", "not patched; the patch applies\n"),
        ("apply", "patched\n"),
        ("check", "patched\n"),
        ("apply", "patched; nothing to do\n"),
        ("revert", "not patched; the patch applies\n"),
        ("revert", "not patched; the patch applies; nothing to do\n"),
    ):
        result = run(action, tmp_path)
        assert (result.exit_code, result.stderr) == (0, ""), action
        assert result.stdout.endswith(f"{tmp_path.resolve()}: {words}"), action
    assert read_source(tmp_path) == originals


def test_show_prints_the_patch_alone(tmp_path: Path) -> None:
    """On stdout is what `git apply` takes, to the byte; the verdict stands on stderr."""
    write_source(tmp_path, b"\r\n")
    result = run("show", tmp_path)
    assert result.exit_code == 0
    assert result.stdout_bytes == inspect_source(tmp_path).diff()
    assert b"+attach_patched(__name__)\r\n" in result.stdout_bytes
    assert "not patched; the patch applies" in result.stderr


def test_json(tmp_path: Path) -> None:
    """One object, with the state of the whole and of each file."""
    write_source(tmp_path)
    root = str(tmp_path.resolve())
    assert json.loads(run("check", tmp_path, "--json").stdout) == {
        "source": root,
        "state": "unpatched",
        "files": [{"path": LOOP, "state": "unpatched"}, {"path": RUNNER, "state": "unpatched"}],
        "problems": [],
        "notices": [],
    }
    assert "+attach_patched(__name__)\n" in json.loads(run("show", tmp_path, "--json").stdout)["patch"]
    applied = json.loads(run("apply", tmp_path, "--json").stdout)
    assert applied["state"] == "patched"
    assert applied["written"] == [str(tmp_path.resolve() / path) for path in (LOOP, RUNNER)]
    assert json.loads(run("apply", tmp_path, "--json").stdout)["written"] == []


@pytest.mark.parametrize("action", ["show", "check"])
def test_half_patched(tmp_path: Path, action: str) -> None:
    """Looking at it is exit code 1, with both files and both ways out; apply completes it."""
    content = write_source(tmp_path)[LOOP]
    run("apply", tmp_path)
    (tmp_path / LOOP).write_bytes(content)
    result = run(action, tmp_path)
    assert (result.exit_code, result.stdout.count("+++")) == (1, 0)
    assert "[patch-half-applied]" in result.stderr
    assert json.loads(run(action, tmp_path, "--json").stdout)["state"] == "half-patched"
    assert run("apply", tmp_path).exit_code == 0
    assert run("check", tmp_path).exit_code == 0


@pytest.mark.parametrize("action", ACTIONS)
def test_damaged_block(tmp_path: Path, action: str) -> None:
    """Exit code 1, file and line, and the files as they were; with --json the same as data."""
    write_source(tmp_path)
    run("apply", tmp_path)
    patched = (tmp_path / LOOP).read_bytes()
    (tmp_path / LOOP).write_bytes(patched.replace(b"# noqa: E402", b"# mine"))
    before = read_source(tmp_path)
    result = run(action, tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path.resolve() / LOOP}, line 9: " in result.stderr
    assert "[patch-block-damaged]" in result.stderr
    document = json.loads(run(action, tmp_path, "--json").stdout)
    assert [problem["slug"] for problem in document["problems"]] == ["patch-block-damaged"]
    assert read_source(tmp_path) == before


def test_an_older_patch_is_a_notice(tmp_path: Path) -> None:
    """What an older version put in works: exit code 0, and what to do about it."""
    for path, content in write_source(tmp_path).items():
        (tmp_path / path).write_bytes(content + OLDER)
    result = run("check", tmp_path)
    assert (result.exit_code, result.stdout.endswith(": patched\n")) == (0, True)
    assert result.stderr.count("[patch-older]") == 2
    assert run("apply", tmp_path).exit_code == 0
    assert run("check", tmp_path).stderr == ""


def test_a_source_that_doctor_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same problem, and nothing is written; but a patch that is in can always be taken out."""
    originals = write_source(tmp_path)
    run("apply", tmp_path)
    patched = read_source(tmp_path)
    monkeypatch.setattr(host_check, "host_problems", lambda root: (REFUSAL,))
    for before in (patched, originals):
        for action in ("show", "check", "apply"):
            result = run(action, tmp_path)
            assert (result.exit_code, result.stdout.count("+++")) == (1, 0)
            assert REFUSAL.message in result.stderr and REFUSAL.hint in result.stderr
            assert read_source(tmp_path) == before
        assert "of no use" in run("check", tmp_path).stdout
        assert run("revert", tmp_path).exit_code == 0
        assert read_source(tmp_path) == originals


def test_the_answer_is_doctors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real source, whole and with one thing changed, `patch check` says what the run is stopped with."""
    monkeypatch.undo()
    pytest.importorskip("rdagent")
    installed = find_host().folder
    for part in ("app", "components", "core", "scenarios/qlib", "utils"):
        shutil.copytree(
            installed / part, tmp_path / "rdagent" / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    assert json.loads(run("check", tmp_path, "--json").stdout)["problems"] == []
    assert run("apply", tmp_path).exit_code == 0
    runner = tmp_path / RUNNER
    runner.write_bytes(runner.read_bytes().replace(b"class QlibModelRunner", b"class OtherRunner"))
    told = json.loads(run("check", tmp_path, "--json").stdout)["problems"]
    expected = host_check.host_problems(tmp_path)
    assert [(one["slug"], one["message"]) for one in told] == [(one.slug, one.message) for one in expected]
    assert told


@pytest.mark.parametrize("action", ACTIONS)
def test_no_rdagent_there(tmp_path: Path, action: str) -> None:
    """Exit code 1 and a sentence, not a traceback."""
    result = run(action, tmp_path)
    assert result.exit_code == 1
    assert "[patch-source-not-found]" in result.stderr


def test_source_has_to_be_named() -> None:
    """The current folder is not taken for granted where files are written: bad usage, exit code 2."""
    assert CliRunner().invoke(app, ["patch", "apply"]).exit_code == 2


def test_each_action_and_option_has_help() -> None:
    """`--help` explains them."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    actions = group.commands["patch"]
    assert isinstance(actions, TyperGroup)
    assert set(actions.commands) == set(ACTIONS)
    for command in actions.commands.values():
        assert command.help
        assert all(getattr(option, "help", None) for option in command.params)

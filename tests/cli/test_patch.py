"""``rdagent-sota patch``: text, ``--json`` and exit codes, on a made-up RD-Agent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from rdagent_sota_patch.cli import app
from rdagent_sota_patch.patching import releases
from tests.patching.released import ADDED, LOOP, RUNNER, made_up_patches, read_source, write_source


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches are those of the made-up releases."""
    monkeypatch.setattr(releases, "shipped_patches", made_up_patches)


def run(action: str, root: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["patch", action, "--source", str(root), *options])


def test_apply_check_revert(tmp_path: Path) -> None:
    """The way there and back, each step said in a sentence; a step done twice says that there is nothing to do."""
    originals = write_source(tmp_path)
    for action, words in (
        ("check", "the patch for RD-Agent 1.0.0 applies\n"),
        ("apply", "the patch for RD-Agent 1.0.0 is applied\n"),
        ("check", "the patch for RD-Agent 1.0.0 is applied\n"),
        ("apply", "the patch for RD-Agent 1.0.0 is applied; nothing to do\n"),
        ("revert", "the patch for RD-Agent 1.0.0 applies\n"),
        ("revert", "the patch for RD-Agent 1.0.0 applies; nothing to do\n"),
    ):
        result = run(action, tmp_path)
        assert (result.exit_code, result.stderr) == (0, ""), action
        assert result.stdout.endswith(words), action
    assert read_source(tmp_path) == originals


def test_show_prints_the_patch_alone(tmp_path: Path) -> None:
    """On stdout is what `git apply` takes; which release it is for stands on stderr."""
    write_source(tmp_path, "0.8.0")
    result = run("show", tmp_path)
    assert result.exit_code == 0
    assert result.stdout == made_up_patches()[1].text
    assert "the patch for RD-Agent 0.8.0 applies" in result.stderr


def test_json(tmp_path: Path) -> None:
    """One object, with the release, the state and each file's."""
    write_source(tmp_path)
    root = str(tmp_path.resolve())
    assert json.loads(run("check", tmp_path, "--json").stdout) == {
        "source": root,
        "release": "1.0.0",
        "version": None,
        "state": "applies",
        "files": [
            {"path": LOOP, "state": "original", "reason": ""},
            {"path": RUNNER, "state": "original", "reason": ""},
        ],
        "problems": [],
    }
    assert json.loads(run("show", tmp_path, "--json").stdout)["patch"] == made_up_patches()[0].text
    applied = json.loads(run("apply", tmp_path, "--json").stdout)
    assert applied["state"] == "applied"
    assert applied["written"] == [str(tmp_path.resolve() / path) for path in (LOOP, RUNNER)]
    assert json.loads(run("apply", tmp_path, "--json").stdout)["written"] == []


@pytest.mark.parametrize("action", ["show", "check", "apply", "revert"])
@pytest.mark.parametrize(
    ("spoil", "slug", "state"),
    [
        (b"# mine\n", "patch-source-changed", "changed"),
        (None, "patch-half-applied", "half-applied"),
    ],
    ids=["edited", "half"],
)
def test_what_does_not_fit(tmp_path: Path, action: str, spoil: bytes | None, slug: str, state: str) -> None:
    """Exit code 1, the slug, and the files as they were; with --json the same as data."""
    content = write_source(tmp_path)[LOOP]
    (tmp_path / LOOP).write_bytes(content + ADDED if spoil is None else spoil + content)
    before = read_source(tmp_path)
    result = run(action, tmp_path)
    assert result.exit_code == 1
    assert f"[{slug}]" in result.stderr
    document = json.loads(run(action, tmp_path, "--json").stdout)
    assert [problem["slug"] for problem in document["problems"]] == [slug]
    if action in ("show", "check"):
        assert document["state"] == state
    assert read_source(tmp_path) == before


@pytest.mark.parametrize("action", ["show", "check", "apply", "revert"])
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
    assert set(actions.commands) == {"show", "check", "apply", "revert"}
    for command in actions.commands.values():
        assert command.help
        assert all(getattr(option, "help", None) for option in command.params)

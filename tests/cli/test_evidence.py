"""``rdagent-sota evidence`` on a log of RD-Agent's own classes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture
from typer.testing import CliRunner

from rdagent_sota_patch.cli import app
from tests.sessions.generated_log import KEY, PlannedLoop, generate_log


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two factor loops, the second rejected, whose workspaces hold nothing."""
    pytest.importorskip("rdagent")
    plan = [PlannedLoop(factors=("Rev5",)), PlannedLoop(factors=("Vol10",), accepted=False)]
    return generate_log(tmp_path_factory.mktemp("project") / "log" / "run", plan)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's key at hand."""
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)


def evidence(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evidence", *map(str, arguments)])


def test_trials_without_returns_are_counted(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    plain = json.loads(evidence(log, "--json").stdout)
    assert (plain["trials"], plain["trials_with_returns"], plain["verdict"]) == (2, 0, "not judged")
    assert plain["winner"]["loop"] == 0
    assert plain["winner"]["dsr"] is None
    assert [problem["slug"] for problem in plain["problems"]] == ["trial-without-returns"] * 2
    told = evidence(log)
    assert told.exit_code == 0
    assert "The winner cannot be weighed" in told.stdout
    assert "Rev5" in told.stdout
    assert "[trial-without-returns]" in told.stderr


def test_without_the_libraries_it_says_what_to_install(log: Path, mocker: MockerFixture) -> None:
    find = importlib.util.find_spec
    mocker.patch("importlib.util.find_spec", side_effect=lambda name: None if name == "arch" else find(name))
    told = evidence(log, "--json")
    assert told.exit_code == 1
    (problem,) = json.loads(told.stdout)["problems"]
    assert problem["slug"] == "extra-missing"
    assert "arch" in problem["message"]
    assert problem["hint"] == "pip install 'rdagent-sota-patch[evidence]'"


def test_a_page_is_written(log: Path, tmp_path: Path) -> None:
    page = tmp_path / "evidence.html"
    told = evidence(log, "--html", page)
    assert told.exit_code == 0
    assert str(page) in told.stdout.replace("\n", "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--unseal", "--html", "page.html"), "not for --unseal"),
        (("--unseal", "--seeds", "3"), "not for --unseal"),
        (("--data", "folder"), "for --unseal"),
        (("--qlib-dir", "folder"), "for --unseal"),
        (("--ledger", "file"), "for --unseal"),
        (("--key-file", "file"), "for --unseal"),
        (("--trust",), "for --unseal and --seeds"),
    ],
)
def test_an_option_that_would_do_nothing_is_bad_usage(options: tuple[str, ...], said: str) -> None:
    """Not passed over: who gives it expects something of it."""
    result = CliRunner().invoke(app, ["evidence", "log", *options], env={"COLUMNS": "120"})
    assert result.exit_code == 2
    assert said in result.stderr

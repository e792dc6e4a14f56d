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
from rdagent_sota_patch.sessions.logs import find_log
from tests.evidence import test_seed_band
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


seen = test_seed_band.seen


def test_seeds_train_the_winner_again(
    log: Path, seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as it was asked for; the text and the JSON have the results, and progress is no part of these."""
    winner = find_log(log, ()).experiments[0].workspace
    assert winner is not None
    test_seed_band.trained(tmp_path / "moved" / winner.name, 0.25)
    monkeypatch.setenv("SOTA_WORKSPACE_ROOT", str(tmp_path / "moved"))
    told = evidence(log, "--seeds", 3, "--json")
    band = json.loads(told.stdout)["seed_band"]
    assert band["winner"]["values"] == pytest.approx([0.25] * 3)
    assert (band["sota"], band["deterministic"], len(list(seen.iterdir()))) == (None, True, 3)
    assert "training with seed 3" in told.stderr
    assert "Trained again with 2 seeds" in " ".join(evidence(log, "--seeds", 2).stdout.split())


def test_without_a_signature_of_this_machine_seeds_need_trust(
    log: Path, seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's code is not run, and nothing is weighed instead; with --trust it is."""
    winner = find_log(log, ()).experiments[0].workspace
    assert winner is not None
    test_seed_band.trained(tmp_path / "moved" / winner.name, 0.25)
    monkeypatch.setenv("SOTA_WORKSPACE_ROOT", str(tmp_path / "moved"))
    monkeypatch.delenv("ARTIFACT_SIGNING_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    refused = evidence(log, "--seeds", 2, "--json")
    assert (refused.exit_code, list(seen.iterdir())) == (1, [])
    assert [problem["slug"] for problem in json.loads(refused.stdout)["problems"]] == ["seeds-need-trust"]
    trusted = json.loads(evidence(log, "--seeds", 2, "--trust", "--json").stdout)
    assert trusted["seed_band"]["winner"]["values"] == pytest.approx([0.25] * 2)


def test_a_winner_that_cannot_be_trained_is_weighed_all_the_same(log: Path, seen: Path) -> None:
    """Its workspace holds no recorder: there is no band, and why is told beside the other figures."""
    told = json.loads(evidence(log, "--seeds", 2, "--json").stdout)
    assert (told["seed_band"], told["winner"]["loop"], list(seen.iterdir())) == (None, 0, [])
    assert "seeds-not-trainable" in [problem["slug"] for problem in told["problems"]]


def test_one_seed_is_no_band(log: Path) -> None:
    """A spread needs two."""
    assert evidence(log, "--seeds", 1).exit_code == 2


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

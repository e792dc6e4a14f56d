"""`rdagent-sota sync`: what it prints, as text and as JSON, and that what it brings is taken by the other commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rdagent_sota_patch.bundle.documents import BOOSTER_NAME, CODE_NAME, COMPANION_NAME, WEIGHTS_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli import app
from tests.bundle.made import make_bundle, replace_file
from tests.sync.contract_server import ContractServer, running

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patterns")
    make_bundle(folder / "plain", replay=False)
    make_bundle(folder / "evidence")
    return folder


@pytest.fixture(scope="module")
def listening() -> Iterator[ContractServer]:
    with running(ContractServer()) as server:
        yield server


@pytest.fixture
def server(listening: ContractServer, patterns: Path, tmp_path: Path) -> ContractServer:
    served = shutil.copytree(patterns, tmp_path / "served")
    listening.serve(served / "plain", served / "evidence")
    return listening


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no line is broken."""
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: object, code: int = 0) -> str:
    """What a command prints on stdout, or where it fails on stderr."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.stderr if code and "--json" not in arguments else done.stdout


def sync(server: ContractServer, target: Path, *arguments: object, code: int = 0) -> str:
    return run("sync", "--api", server.url, "--task", "latest", "--out", target, *arguments, code=code)


def test_what_came_is_said(server: ContractServer, tmp_path: Path) -> None:
    """The run's real id, the folder, files and features; the second time, that nothing was new."""
    target = tmp_path / "live"
    said = sync(server, target)
    assert said.startswith("made (latest), loop 1 → ")
    assert "4 features: 2 mined, 2 Alpha" in said
    assert re.search(r"Transferred: \d+ files", said)
    assert "--with-replay brings it" in said
    assert "Nothing was new" in sync(server, target)
    assert "written again" not in sync(server, target)


def test_the_notes_layout_is_of_the_factor_stage(server: ContractServer, tmp_path: Path) -> None:
    said = sync(server, tmp_path / "live", "--stage", "model", "--layout", "notes", code=2)
    assert "leave it out with --stage model" in said


def test_what_came_as_json(server: ContractServer, tmp_path: Path) -> None:
    """One object, and no progress bar beside it."""
    target = tmp_path / "live"
    done = CliRunner().invoke(
        app, ["sync", "--api", server.url, "--task", "made", "--out", str(target), "--json"]
    )
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["path"] == str(target) and document["task_id"] == "made" and document["changed"]
    assert set(document["transferred"]) == set(open_bundle(target).manifest.files)
    assert document["bytes_received"] == document["bytes"]
    assert document["aistock_manifest"] == json.loads((target / COMPANION_NAME).read_text())
    again = json.loads(sync(server, target, "--json"))
    assert (again["changed"], again["transferred"], again["bytes_received"]) == (False, [], 0)


def test_the_notes_layout(server: ContractServer, tmp_path: Path) -> None:
    """A list of factors at the top, in a folder that `verify` takes."""
    document = json.loads(sync(server, tmp_path / "live", "--layout", "notes", "--json"))
    assert document["aistock_manifest"]["primary_assets"]["factor_entry_relpath"] == "factor_entry.py"
    assert isinstance(json.loads((tmp_path / "live" / "sota_factors.json").read_text()), list)
    run("verify", tmp_path / "live")
    # In a new folder nothing was right already: most of it is made of what came.
    assert re.search(
        r"; \d+ were made of them, or were right already", sync(server, tmp_path / "b", "--layout", "notes")
    )


def test_a_problem_exits_1(server: ContractServer, tmp_path: Path) -> None:
    """The server's own comes with its slug and hint; with --json as an object."""
    server.faults.problems[WEIGHTS_NAME] = [(409, "weights-changed")] * 2
    said = sync(server, tmp_path / "live", code=1)
    assert "weights-changed" in said and "Do something else." in said
    document = json.loads(sync(server, tmp_path / "live", "--json", code=1))
    assert document["problems"][0]["slug"] == "weights-changed"
    assert not (tmp_path / "live").exists()


def test_the_token_comes_from_its_file(server: ContractServer, tmp_path: Path) -> None:
    """And is never printed."""
    server.token = TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert TOKEN not in sync(server, tmp_path / "live", "--token-file", file)
    assert "token-required" in sync(server, tmp_path / "live", code=1)
    file.write_text("short")
    assert "bad-token-file" in sync(server, tmp_path / "live", "--token-file", file, code=1)


def test_what_a_server_says_does_not_steer_the_terminal(server: ContractServer, tmp_path: Path) -> None:
    """Its messages are text."""
    server.anchor_changes = {
        "ok": False,
        "resolved_model_weight_source": None,
        "resolved_model_weight_source_error": "\x1b[31m[red]gone[/]",
    }
    said = sync(server, tmp_path / "live", code=1)
    assert "\x1b" not in said and "[red]gone[/]" in said


def test_a_sync_without_evidence_verifies_and_says_what_it_did_not(
    server: ContractServer, tmp_path: Path
) -> None:
    """Hashes, documents and weights; the scores are not replayed, and that is not a problem."""
    target = tmp_path / "live"
    sync(server, target)
    done = CliRunner().invoke(app, ["verify", str(target)])
    assert done.exit_code == 0
    assert "all as the manifest says" in done.stdout
    assert "not replayed here" in done.stderr and "--with-replay" in done.stderr
    document = json.loads(run("verify", target, "--json"))
    assert (document["replay"], document["problems"]) == (None, [])
    assert [notice["slug"] for notice in document["notices"]] == ["not-replayed"]


def test_a_network_is_tried_where_it_cannot_be_replayed(server: ContractServer, tmp_path: Path) -> None:
    """Its code and its weights must fit the order; tensors of another shape do not."""
    server.serve(make_bundle(tmp_path / "network", "time_series", replay=False).folder)
    target = tmp_path / "live"
    sync(server, target)
    assert "model.py ran" in run("verify", target)
    with_replaced = (target / CODE_NAME).read_text().replace("num_features, 5", "num_features + 1, 5")
    replace_file(server.folder, CODE_NAME, with_replaced.encode())
    sync(server, target)
    assert "model-input-mismatch" in run("verify", target, code=1)


def test_a_sync_with_evidence_replays(server: ContractServer, tmp_path: Path) -> None:
    """To the last bit."""
    target = tmp_path / "live"
    assert "--with-replay brings" not in sync(server, target, "--with-replay")
    document = json.loads(run("verify", target, "--json"))
    assert document["replay"]["same"] is True and document["notices"] == []


def test_an_altered_sync_does_not_verify(server: ContractServer, tmp_path: Path) -> None:
    """The companion excuses the missing evidence, and nothing else."""
    target = tmp_path / "live"
    sync(server, target)
    with (target / BOOSTER_NAME).open("a") as file:
        file.write("\n")
    assert "bundle-altered" in run("verify", target, code=1)


def damaged(document: dict[str, Any]) -> str:
    document["files"].pop(WEIGHTS_NAME)
    return json.dumps(document)


@pytest.mark.parametrize("change", [lambda _: "", lambda _: "{}", damaged])
def test_another_companion_is_none(server: ContractServer, tmp_path: Path, change: Any) -> None:
    """It must be the one of this bundle to excuse anything."""
    target = tmp_path / "live"
    sync(server, target)
    companion = target / COMPANION_NAME
    companion.write_text(change(json.loads(companion.read_text())))
    assert "bundle-damaged" in run("verify", target, code=1)
    companion.unlink()
    assert "no-replay" in run("verify", target, code=1)

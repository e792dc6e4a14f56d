"""``rdagent-sota runs``: a folder's runs as a table and as JSON; `inspect` of such a folder points to it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_patch.cli import app, runs
from rdagent_sota_patch.cli.main import RunSort
from rdagent_sota_patch.results.outlines import ORDERS
from tests.results.log_root import make_project, run_of_factors, with_attributes, write_run
from tests.sessions.generated_log import KEY


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a command loads from ``.env`` goes with the test."""
    before = dict(os.environ)
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    monkeypatch.delenv("LOG_TRACE_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


def ask(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_log_root_is_found_as_latest_finds_it(tmp_path: Path) -> None:
    """A folder that is named, else the one beside ``LOG_TRACE_PATH``, else ``log``; one that is gone is an error."""
    write_run(tmp_path / "log" / "here", [(run_of_factors("ZMom"), True)])
    write_run(tmp_path / "other" / "there", [(run_of_factors("ZMom"), True)])

    def names(*arguments: str) -> list[str]:
        return [row["task_id"] for row in json.loads(ask("runs", *arguments, "--json").stdout)["runs"]]

    assert (names(), names("other")) == (["here"], ["there"])
    os.environ["LOG_TRACE_PATH"] = str(tmp_path / "other" / "new")
    assert names() == ["there"]
    gone = ask("runs", "nowhere", "--json")
    assert gone.exit_code == 1
    assert json.loads(gone.stdout)["problems"][0]["slug"] == "log-root-not-found"


def test_a_table_with_a_row_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that cannot be read, whose reason is told, and which does not make the command fail."""
    monkeypatch.setattr(runs.out, "_width", 140)
    root = make_project(tmp_path).log
    done = ask("runs", root)
    assert done.exit_code == 0
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert lines["accepted"].split()[3:7] == ["fin_factor", "3", "2", "0.0125"]
    assert "3, loop 2" in lines["accepted"]
    assert "cannot be read" in lines["torn"]
    assert "snapshot-altered" in done.stderr
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout


def test_orders_and_limit(tmp_path: Path) -> None:
    """The columns are those of the results API; what was left out is told."""
    assert tuple(RunSort) == ORDERS
    for number, name in enumerate("abc"):
        write_run(tmp_path / "log" / name, [(run_of_factors("ZMom"), True)] * (3 - number))
    by_loops = json.loads(ask("runs", "--sort", "loops", "--json").stdout)
    assert [row["task_id"] for row in by_loops["runs"]] == ["a", "b", "c"]
    assert [
        row["task_id"]
        for row in json.loads(ask("runs", "--sort", "loops", "--reverse", "--json").stdout)["runs"]
    ] == ["c", "b", "a"]
    few = ask("runs", "--limit", "2")
    assert "The newest 2 of 3 runs; --limit 0 reads all." in few.stderr


def test_inspect_of_a_folder_of_runs_points_here(tmp_path: Path) -> None:
    """With the command to type, its path quoted."""
    write_run(tmp_path / "my logs" / "run", [(run_of_factors("ZMom"), True)])
    done = ask("inspect", "my logs")
    assert done.exit_code == 1
    assert "The folder holds 1 run" in done.stderr
    assert "rdagent-sota runs 'my logs' shows them as a table" in done.stderr


def test_inspect_names_the_factors_that_a_model_was_given(tmp_path: Path) -> None:
    """With their loops and the run that mined them, and does not say that there are none."""
    source = {"kind": "log", "path": "/log/mined", "task_id": "mined", "loop": 2}
    record = {"source": source, "factors": [{"name": "Gap", "loop": 0}, {"name": "Rev", "loop": 2}]}
    fed = with_attributes(run_of_factors("ZMom"), sota_source=record)
    log = write_run(tmp_path / "log" / "fed", [(fed, False)])
    done = ask("inspect", log)
    assert "Given: 2 SOTA factors of loop 2 of mined: Gap (loop 0), Rev (loop 2)" in done.stdout
    assert "No SOTA factors" not in done.stdout
    given = json.loads(ask("inspect", log, "--json").stdout)["given"]
    assert (given["source"], given["factors"]) == ("mined", [["Gap", 0], ["Rev", 2]])

"""``rdagent-sota inspect --metrics``: figures of each factor beside the run's loops, in a table that fits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_patch.cli import app
from tests.export.made_run import write_workspace
from tests.results.log_root import Project, run_of_factors, write_run
from tests.scoring.made_market import make_market
from tests.sessions.generated_log import KEY


@pytest.fixture(autouse=True)
def environment_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a command loads from ``.env`` goes with the test; no market data is named."""
    before = dict(os.environ)
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    monkeypatch.delenv("FACTOR_CoSTEER_DATA_FOLDER", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A run of one loop with a table of three factors, one of a long name."""
    project = Project(tmp_path / "project")
    project.workspace.mkdir(parents=True)
    write_workspace(project.workspace)
    factors = run_of_factors("ZMom", "GapA", "Extra", place=project.workspace)
    return write_run(project.log / "mined", [(factors, True)])


def ask(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_every_figure_as_json(log: Path) -> None:
    """Beside what it says without; null has its reason."""
    document = json.loads(ask(log, "--metrics", "--json").stdout)
    assert document["hist_len"] == 1
    items = document["factor_metrics"]["metrics"]
    assert [item["factor_name"] for item in items] == ["ZMom", "GapA", "Extra"]
    assert items[0]["ic_mean"] > 0.4
    assert items[0]["rank_ic_5d"] is None and "--data" in items[0]["missing"]["rank_ic_5d"]
    assert "factor_metrics" not in json.loads(ask(log, "--json").stdout)


@pytest.mark.parametrize("columns", [80, 140])
def test_a_table_that_fits(log: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """No line is longer than the terminal is wide, and every factor has its figures."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = ask(log, "--metrics")
    assert done.exit_code == 0
    table = done.stdout.split("top-low")[0].splitlines()[-1] + done.stdout.split("top-low")[1]
    lines = [line for line in table.splitlines() if line.startswith(("ZMom", "GapA", "Extra"))]
    assert len(lines) == 3
    assert all(len(line) <= columns for line in lines)
    assert all(len(line.split()) == (13 if columns > 110 else 10) for line in lines)
    assert "A dash: Without market data" in done.stderr


def test_market_data_is_named(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By --data or as RD-Agent's own setting; without --metrics it is bad usage."""
    data = make_market(tmp_path / "market").files.data
    assert data is not None
    named = json.loads(ask(log, "--metrics", "--data", data, "--json").stdout)["factor_metrics"]
    assert named["return_source"] == str(data)
    assert named["metrics"][0]["rank_ic_20d"] is not None
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(data.parent))
    found = json.loads(ask(log, "--metrics", "--json").stdout)["factor_metrics"]
    assert found["metrics"][0]["ic_mean"] == named["metrics"][0]["ic_mean"]
    assert ask(log, "--data", data).exit_code == 2


def test_market_data_that_cannot_be_used_ends_it(log: Path, tmp_path: Path) -> None:
    """The label does not stand in for what was named."""
    (tmp_path / "daily_pv.h5").write_bytes(b"no HDF5")
    done = ask(log, "--metrics", "--data", tmp_path, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["problems"][0]["slug"] == "market-data-unreadable"

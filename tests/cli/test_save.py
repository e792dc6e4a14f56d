"""``rdagent-sota save`` with several logs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.factor_table.provenance import read_provenance

from .test_commands import environment_as_before, generated, inspect_json, log, run

__all__ = ["environment_as_before", "generated", "log"]
"""Fixtures."""

NAMES = ("Rev5", "Gap3", "Mom60")


def write_values(folder: Path, values: dict[str, Any], days: int = 40) -> None:
    """A factor table in a workspace."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", periods=days, freq="B"), [f"SH{600000 + each}" for each in range(8)]],
        names=["datetime", "instrument"],
    )
    frame = pd.DataFrame(values, index=index)
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "combined_factors_df.parquet")


@pytest.fixture
def two(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two runs of the same factors' names and codes; the second's Mom60 has other values, its Gap3 nearly the same."""
    other = log.parent / "later"
    shutil.copytree(log, other)
    draw = np.random.default_rng(0)
    first = {name: draw.standard_normal(320) for name in NAMES}
    second = {
        "Rev5": first["Rev5"],
        "Gap3": first["Gap3"] * (1 + 1e-6 * draw.standard_normal(320)),
        "Mom60": draw.standard_normal(320),
    }
    recorded = Path(inspect_json(log)["sota"]["workspace"])
    tables = {log: first, other: second}

    def found(experiment: Any, log: Path, *_: Any, **__: Any) -> tuple[Path, tuple[Path, ...]]:
        return tmp_path / log.name / recorded.name, ()

    for each, values in tables.items():
        write_values(tmp_path / each.name / recorded.name, values)
    monkeypatch.setattr("rdagent_sota_patch.factor_table.sources.find_workspace", found)
    return log, other


def test_two_runs_as_one_set(two: tuple[Path, Path], tmp_path: Path) -> None:
    """What is the same is there once, what is nearly so is left out, a name in conflict has the run's suffix."""
    target = tmp_path / "set.parquet"
    result = run("save", *two, "--out", target, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["names"] == ["Rev5", "Gap3", "Mom60", "Mom60_run2"]
    assert [(each["name"], each["like"], each["same"]) for each in document["left_out"]] == [
        ("Rev5", "Rev5", True),
        ("Gap3", "Gap3", False),
    ]
    assert document["renamed"] == [
        {"name": "Mom60_run2", "renamed_from": "Mom60", "label": "run 2, later"},
    ]
    assert [
        (each["task_id"], each["loop"], each["factors"], each["rows_alone"]) for each in document["runs"]
    ] == [
        ("run", 2, 3, 0),
        ("later", 2, 1, 0),
    ]
    provenance = read_provenance(target)
    assert provenance is not None
    last = provenance.factors[-1]
    assert (last.name, last.renamed_from, last.task_id, last.loop) == ("Mom60_run2", "Mom60", "later", 2)
    assert last.code and last.code_sha256 and last.workspace


def test_people_are_told(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Each run's part, what is called otherwise, and what is left out and why."""
    result = run("save", *two, "--out", tmp_path / "set.parquet")
    for text in (
        "4 factors: Rev5, Gap3, Mom60, Mom60_run2",
        "run 1, run: 3 factors, 320 rows.",
        "Mom60 of run 2, later is called Mom60_run2 here",
        "Rev5 of run 2, later is left out: Rev5 has the same name and the same values.",
        "Gap3 of run 2, later is left out: its correlation with Gap3 is 1.0000",
    ):
        assert text in result.stdout


def test_one_log_is_as_before(two: tuple[Path, Path], tmp_path: Path) -> None:
    """The run is named by the file, and a factor has no further fields."""
    assert run("save", two[0], "--out", tmp_path / "one.parquet").exit_code == 0
    provenance = read_provenance(tmp_path / "one.parquet")
    assert provenance is not None
    assert (provenance.task_id, provenance.loop) == ("run", 2)
    assert all(word not in provenance.to_json() for word in ("code_sha256", "workspace", "renamed_from"))

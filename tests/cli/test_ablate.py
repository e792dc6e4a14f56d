"""``rdagent-sota ablate``: what it refuses before any work."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_patch.cli import app


def ablate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["ablate", *map(str, arguments)])


def test_libraries_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the log is read, with what to type."""
    find = importlib.util.find_spec

    def without_joblib(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "joblib" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_joblib)
    done = ablate(tmp_path / "log")
    assert done.exit_code == 1
    assert "needs joblib" in done.stderr
    assert "[evidence,live]" in done.stderr


def test_a_factor_file_is_parquet(tmp_path: Path) -> None:
    done = ablate(tmp_path / "log", "--save", tmp_path / "fewer.csv")
    assert done.exit_code == 1
    assert "unknown-format" in done.stderr


def test_what_is_saved_is_the_smallest_set(tmp_path: Path) -> None:
    done = ablate(tmp_path / "log", "--save", tmp_path / "fewer.parquet", "--no-smallest")
    assert done.exit_code == 2


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    """The folder for outcomes is not left with what was begun in it."""
    done = ablate(tmp_path / "log", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "log-not-found" in done.stderr
    assert not (tmp_path / "out" / "work").exists()

"""``rdagent-sota ablate``: what it refuses before any work."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_patch.ablation.ablating import Ablation, Earned
from rdagent_sota_patch.ablation.earning import Change
from rdagent_sota_patch.ablation.grouping import Group
from rdagent_sota_patch.ablation.subject import subject_of_log
from rdagent_sota_patch.ablation.walk import Window
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.cli.ablate import _show
from tests.export.made_run import make_run


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
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ablation.lock"]


def test_what_is_in_the_folder_stays(tmp_path: Path) -> None:
    """Of what is there, an ablation removes what a killed one left, and nothing else."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "ablation-work-killed").mkdir()
    (tmp_path / "ablation-work-killed" / "features.npy").write_bytes(b"")
    ablate(tmp_path / "log", "--out", tmp_path)
    assert (tmp_path / "work" / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "ablation-work-killed").exists()


def test_where_nothing_can_be_saved(tmp_path: Path) -> None:
    """Said before hours of work; the hint names no setting of RD-Agent's runs."""
    done = ablate(tmp_path / "log", "--save", tmp_path / "nowhere" / "fewer.parquet")
    assert done.exit_code == 1
    assert "cannot-write" in done.stderr
    assert "log-not-found" not in done.stderr
    assert "SOTA_FACTORS_PATH" not in done.stderr


def test_one_of_a_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One factor, one seed, one window: said in the singular."""
    run = make_run(tmp_path / "project")
    subject = subject_of_log(run.session, None, (), tmp_path, tmp_path)
    earned = Earned(Group(("ZMom",)), Change(0.1, 0.0, 1, 0.0, 0.1), 0.0, "helps")
    window = Window((0, 1), (1, 2), (2, 4))
    days = tuple(f"{day:%Y-%m-%d}" for day in pd.bdate_range("2020-01-01", periods=4))
    _show(subject, Ablation((window,), days, 1, (), (earned,), ("ZMom",), None, 1, ()))
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("Of 1 mined factor, 1 is shown to help; as good as all is 1: ZMom.")
    assert "1 model, 1 seed, 1 window, tested on 2020-01-03…2020-01-06" in said

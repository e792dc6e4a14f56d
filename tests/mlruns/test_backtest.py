"""What a back-test left day by day, read without unpickling, against what was written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.mlruns.backtest import IC, REPORT, read_backtest
from rdagent_sota_patch.mlruns.recorder import WEIGHTS, RecorderHint, measure
from tests.mlruns.forged_recorder import write_backtest, write_recorder

DAYS = pd.bdate_range("2020-01-01", periods=5, name="datetime")
REPORT_FRAME = pd.DataFrame(
    {
        "account": np.full(5, 1e8),
        "return": [0.01, -0.02, 0.0, 0.03, 0.01],
        "turnover": [1.0, 0.2, 0.1, 0.2, 0.1],
        "cost": [0.001, 0.0002, 0.0001, 0.0002, 0.0001],
        "bench": np.array([0.005, -0.01, 0.001, 0.02, 0.0], dtype="f4"),
    },
    index=DAYS,
)
DAILY_IC = pd.Series([0.1, np.nan, 0.2, -0.1, 0.05], index=DAYS)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    run = write_recorder(tmp_path, {"Close": "$close"})
    write_backtest(run, REPORT_FRAME, DAILY_IC, DAILY_IC / 2)
    return tmp_path


def artifact(workspace: Path, name: str) -> Path:
    (path,) = (workspace / "mlruns").glob(f"*/*/artifacts/{name}")
    return path


def test_each_part_is_what_qlib_wrote(workspace: Path) -> None:
    """As float64, by trading day; the excess is strategy less benchmark less cost."""
    read = read_backtest(workspace)
    assert not read.missing
    for part, column in (("returns", "return"), ("benchmark", "bench"), ("costs", "cost")):
        pd.testing.assert_series_equal(
            getattr(read, part), REPORT_FRAME[column].astype("f8"), check_names=False, check_freq=False
        )
    pd.testing.assert_series_equal(read.ic, DAILY_IC, check_freq=False)
    pd.testing.assert_series_equal(read.rank_ic, DAILY_IC / 2, check_freq=False)
    assert read.excess is not None
    assert read.excess.iloc[1] == pytest.approx(-0.02 + 0.01 - 0.0002, abs=1e-9)


def test_what_is_missing_says_why(workspace: Path) -> None:
    """A part that is gone is None, and the others are there."""
    artifact(workspace, IC).unlink()
    read = read_backtest(workspace)
    assert read.ic is None
    assert "ic.pkl is missing" in read.missing["ic"]
    assert read.rank_ic is not None
    assert read.excess is not None


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (REPORT_FRAME.drop(columns="bench"), "no column bench"),
        (REPORT_FRAME.iloc[::-1], "its days do not rise"),
        (REPORT_FRAME.reset_index(drop=True), "its rows are not by day"),
        (DAILY_IC, "cannot be read: a frame in an unknown form"),
    ],
)
def test_an_odd_report_is_not_taken(workspace: Path, damage: Any, reason: str) -> None:
    damage.to_pickle(artifact(workspace, REPORT))
    read = read_backtest(workspace)
    assert read.excess is None
    assert reason in read.missing["benchmark"]
    assert read.ic is not None


def test_a_workspace_without_a_recorder(tmp_path: Path) -> None:
    read = read_backtest(tmp_path / "gone")
    assert read.excess is None
    assert set(read.missing) == {"returns", "benchmark", "costs", "turnover", "ic", "rank_ic"}


def test_nothing_of_it_is_run(workspace: Path, tmp_path: Path) -> None:
    """A stranger's artifact may hold any pickle."""
    trace = tmp_path / "trace"
    artifact(workspace, IC).write_bytes(b"cos\nsystem\n(V touch " + str(trace).encode() + b"\ntR.")
    assert read_backtest(workspace).ic is None
    assert not trace.exists()
    shutil.rmtree(workspace / "mlruns")


@pytest.mark.parametrize("name", ["ret.parquet", "ret.pkl"])
def test_the_copy_in_the_workspace_stands_in_for_the_report(workspace: Path, name: str) -> None:
    """RD-Agent's ``read_exp_res.py`` writes one there, as parquet or, in older releases, pickled."""
    artifact(workspace, REPORT).unlink()
    (REPORT_FRAME.to_parquet if name.endswith("parquet") else REPORT_FRAME.to_pickle)(workspace / name)
    read = read_backtest(workspace)
    assert not read.missing
    pd.testing.assert_series_equal(
        read.benchmark, REPORT_FRAME["bench"].astype("f8"), check_names=False, check_freq=False
    )


@pytest.mark.parametrize("finished", [True, False])
def test_a_copy_that_may_be_another_runs_is_not_taken(workspace: Path, finished: bool) -> None:
    """The copy does not say of which run it is: with two in the workspace, it could be the other's."""
    kept = artifact(workspace, REPORT)
    kept.unlink()
    REPORT_FRAME.to_parquet(workspace / "ret.parquet")
    other = kept.parents[2].with_name("f" * 32)
    other.mkdir()
    if finished:
        shutil.copytree(kept.parents[2], other, dirs_exist_ok=True)
        meta = (other / "meta.yaml").read_text(encoding="utf-8").replace(kept.parents[2].name, other.name)
        (other / "meta.yaml").write_text(meta, encoding="utf-8")
    hint = RecorderHint(kept.parents[3].name, kept.parents[2].name, *measure(kept.parents[1] / WEIGHTS))
    read = read_backtest(workspace, hint)
    assert read.excess is None
    assert "report_normal_1day.pkl is missing" in read.missing["returns"]


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing", "text"])
def test_a_damaged_copy_is_a_reason(workspace: Path, content: Any) -> None:
    """No foreign error, whatever the file holds."""
    artifact(workspace, REPORT).unlink()
    if isinstance(content, bytes):
        (workspace / "ret.parquet").write_bytes(content)
    else:
        REPORT_FRAME.astype(str).add("x").to_parquet(workspace / "ret.parquet")
    read = read_backtest(workspace)
    assert read.excess is None
    assert "ret.parquet" in read.missing["returns"]


def test_a_copy_that_leads_elsewhere_is_not_read(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A stranger's workspace must not show another file of this machine."""
    artifact(workspace, REPORT).unlink()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "ret.parquet"
    REPORT_FRAME.to_parquet(elsewhere)
    (workspace / "ret.parquet").symlink_to(elsewhere)
    assert "outside of its workspace" in read_backtest(workspace).missing["returns"]

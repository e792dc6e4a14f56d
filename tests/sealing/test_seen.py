"""Which texts and pickles show a sealed day."""

from __future__ import annotations

import pickle
from datetime import date, datetime, timezone
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.sealing import seen
from rdagent_sota_patch.sealing.seal_record import ROW, SealRecord, write_seal
from rdagent_sota_patch.sealing.seen import find_seen_days
from rdagent_sota_patch.sessions.records import Session, Signature

DAY = date(2021, 1, 4)
INDEX = pd.MultiIndex.from_product(
    [pd.to_datetime(["2020-12-31", "2021-01-04"]), ["A", "B"]], names=["datetime", "instrument"]
)
LATE = pd.DataFrame({"x": np.arange(4.0)}, index=INDEX)
EARLY = LATE.loc[:"2020-12-31"].copy()
EARLY.index = EARLY.index.remove_unused_levels()


@pytest.mark.parametrize(
    ("line", "day"),
    [
        ("2021-01-04 SH600000 1.5", "2021-01-04"),
        ("  2021-01-04  SZ000750      0.000000", "2021-01-04"),
        ("2021-01-04 00:00:00  -3.1e-05", "2021-01-04"),
        ("| 2021-01-04 | 12 |", "2021-01-04"),
        ("2021-01-04,SH600000,1.0", "2021-01-04"),
        ("2021-01-04 11:20:01.252 | INFO | 12", None),
        ("The test segment ends on 2021-01-04.", None),
        ("2021-01-04 to 2021-02-01", None),
        ('frame.loc["2021-01-04":]', None),
        ("2021-01-04", None),
    ],
)
def test_a_row_is_a_day_and_a_number(line: str, day: str | None) -> None:
    """Dates in sentences, in code and in front of log lines are none."""
    found = ROW.search(f"before\n{line}\nafter")
    assert (found and found[1]) == day


def run(tmp_path: Path, *, sealed: bool = True) -> tuple[Session, Path]:
    """A run's log with a snapshot that names one workspace."""
    log, workspace = tmp_path / "log" / "run", tmp_path / "workspace"
    workspace.mkdir()
    snapshot = log / "__session__" / "0" / "4_record"
    snapshot.parent.mkdir(parents=True)
    snapshot.write_bytes(pickle.dumps(SimpleNamespace(workspace_path=PurePosixPath(workspace))))
    if sealed:
        record = SealRecord(
            sealed_from=DAY,
            key="k",
            wall=True,
            example_rows=("2021-12-31  SZ000750      0.000000",),
            written_at=datetime.now(timezone.utc),
        )
        write_seal(log, record)
    return Session(log, snapshot, Signature.UNSIGNED, "FactorRDLoop", ()), workspace


def write_late_parquet(workspace: Path, _: Path) -> Path:
    """A factor table."""
    LATE.to_parquet(workspace / "combined_factors_df.parquet")
    return workspace / "combined_factors_df.parquet"


def write_late_h5(workspace: Path, _: Path) -> Path:
    """A factor's values."""
    LATE.to_hdf(workspace / "result.h5", key="data")
    return workspace / "result.h5"


def write_late_predictions(workspace: Path, _: Path) -> Path:
    """Predictions, as Qlib keeps them."""
    LATE.to_pickle(workspace / "pred.pkl")
    return workspace / "pred.pkl"


def write_late_positions(workspace: Path, _: Path) -> Path:
    """Positions by day."""
    (workspace / "positions.pkl").write_bytes(pickle.dumps({pd.Timestamp("2021-01-04"): 1.0}))
    return workspace / "positions.pkl"


def write_late_levels(workspace: Path, _: Path) -> Path:
    """Early rows whose index still names a sealed day."""
    LATE.loc[:"2020-12-31"].to_pickle(workspace / "slice.pkl")
    return workspace / "slice.pkl"


def write_late_prompt(_: Path, log: Path) -> Path:
    """A prompt with a printed table."""
    (log / "Loop_0").mkdir()
    (log / "Loop_0" / "llm.pkl").write_bytes(
        pickle.dumps({"user": f"The values are\n{LATE.reset_index()}\n"})
    )
    (log / "Loop_0" / "rows.pkl").write_bytes(pickle.dumps({"user": "2021-01-05  A  1.0\n"}))
    return log / "Loop_0" / "rows.pkl"


@pytest.mark.parametrize(
    "write",
    [
        write_late_parquet,
        write_late_h5,
        write_late_predictions,
        write_late_positions,
        write_late_levels,
        write_late_prompt,
    ],
    ids=lambda write: write.__name__.removeprefix("write_late_"),
)
def test_a_file_with_a_sealed_day_is_named(tmp_path: Path, write: object) -> None:
    """With the day."""
    session, workspace = run(tmp_path)
    file = write(workspace, session.log)  # type: ignore[operator]
    problems = find_seen_days(session, ())
    assert {problem.slug for problem in problems} == {"sealed-day-seen"}
    assert any(str(file) in problem.message and "2021-01-0" in problem.message for problem in problems)


def test_files_of_earlier_days_are_clean(tmp_path: Path) -> None:
    """So are made-up rows of RD-Agent's own prompts."""
    session, workspace = run(tmp_path)
    EARLY.to_parquet(workspace / "combined_factors_df.parquet")
    EARLY.to_hdf(workspace / "result.h5", key="data")
    EARLY.to_pickle(workspace / "pred.pkl")
    (session.log / "llm.pkl").write_bytes(pickle.dumps({"system": "  2021-12-31  SZ000750      0.000000\n"}))
    assert find_seen_days(session, ()) == ()


def test_a_run_without_a_seal_is_not_looked_at(tmp_path: Path) -> None:
    """It was to see all days."""
    session, workspace = run(tmp_path, sealed=False)
    LATE.to_parquet(workspace / "combined_factors_df.parquet")
    assert find_seen_days(session, ()) == ()


def test_what_cannot_be_read_is_not_judged(tmp_path: Path) -> None:
    """Neither an accusation nor a pass; and nothing of it is run."""
    session, workspace = run(tmp_path)
    (workspace / "pred.pkl").write_bytes(b"\x80\x04broken")
    (workspace / "x.parquet").write_bytes(b"PAR1")
    assert [problem.slug for problem in find_seen_days(session, ())] == ["seal-not-judged"] * 2


@pytest.mark.parametrize("suffix", [".log", ".txt"])
def test_a_text_that_is_too_large_is_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """What is behind the part that would be read may show a sealed day."""
    session, workspace = run(tmp_path)
    monkeypatch.setattr(seen, "_LARGEST_TEXT", 2000)
    (workspace / f"train{suffix}").write_text(f"{'nothing ' * 300}\n2021-01-04 SH600000 1.5\n")
    (problem,) = find_seen_days(session, ())
    assert problem.slug == "seal-not-judged"
    assert "too large" in problem.message


def test_times_in_a_form_that_is_not_read_are_not_passed(tmp_path: Path) -> None:
    """Neither seen nor clean."""
    session, workspace = run(tmp_path)
    held = {"days": np.array(["2021-01-04"], dtype="datetime64[D]"), "numbers": np.array([1 + 2j])}
    (workspace / "held.pkl").write_bytes(pickle.dumps(held))
    (problem,) = find_seen_days(session, ())
    assert problem.slug == "seal-not-judged"
    assert "held.pkl" in problem.message

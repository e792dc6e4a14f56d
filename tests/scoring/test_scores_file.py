"""Scores on disk."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError, SotaError
from rdagent_sota_patch.scoring.prediction import Prediction, rank_scores
from rdagent_sota_patch.scoring.scores_file import write_scores


def predicted(*, explain: bool = False, top: int | None = None) -> Prediction:
    """Four stocks, two of them with equal scores."""
    scores = rank_scores(pd.Series({"D": 0.1 + 0.2, "B": 1 / 3, "C": -2.0, "A": 1 / 3}))
    features = pd.DataFrame({"Gap": [1.5, np.nan, 0.25, 2.0]}, index=scores.index)
    return Prediction(
        pd.Timestamp("2024-01-02"), scores, features, top, explain, {}, {}, {"Gap": 0.75}, (), (), {}
    )


def test_ranks_count_from_the_best() -> None:
    """Equal scores are ranked by name, so that a list does not depend on the order of the data."""
    assert predicted().scores["rank"].to_dict() == {"A": 1, "B": 2, "D": 3, "C": 4}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_reads_back_to_the_bit(tmp_path: Path, suffix: str) -> None:
    """Both formats hold instrument, score and rank, and with --explain the features."""
    target = tmp_path / f"scores{suffix}"
    prediction = predicted(explain=True)
    write_scores(prediction, target)
    csv = suffix != ".parquet"
    read = pd.read_csv(target, float_precision="round_trip") if csv else pd.read_parquet(target)
    pd.testing.assert_frame_equal(read, prediction.frame, check_exact=True)
    assert list(read.columns) == ["instrument", "score", "rank", "Gap"]


def test_top_gives_the_best_alone(tmp_path: Path) -> None:
    """--top cuts the file, not the prediction."""
    target = tmp_path / "scores.csv"
    prediction = predicted(top=2)
    write_scores(prediction, target)
    assert target.read_text().splitlines() == [
        "instrument,score,rank",
        "A,0.3333333333333333,1",
        "B,0.3333333333333333,2",
    ]
    assert len(prediction.scores) == 4


def renamed(features: list[str], stocks: list[str]) -> Prediction:
    """Two stocks with these names, and features likewise."""
    scores = rank_scores(pd.Series([2.0, 1.0], index=stocks))
    values = pd.DataFrame(np.arange(2.0 * len(features)).reshape(2, -1), index=scores.index, columns=features)
    return Prediction(pd.Timestamp("2024-01-02"), scores, values, None, True, {}, {}, {}, (), (), {})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_features_that_are_called_as_a_column(tmp_path: Path, suffix: str) -> None:
    """Each has a column of its own under another name, and score and rank stay what they are."""
    target = tmp_path / f"scores{suffix}"
    write_scores(renamed(["score", "Gap", "rank", "instrument", "feature_score"], ["A", "B"]), target)
    read = pd.read_csv(target) if suffix == ".csv" else pd.read_parquet(target)
    names = ["feature_feature_score", "Gap", "feature_rank", "feature_instrument", "feature_score"]
    assert list(read.columns) == ["instrument", "score", "rank", *names]
    assert read.iloc[1].tolist() == ["B", 1.0, 2, 5.0, 6.0, 7.0, 8.0, 9.0]


@pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\n=1"])
def test_no_cell_is_a_formula(tmp_path: Path, text: str) -> None:
    """Neither a stock's name nor a feature's: a spreadsheet would run it. Parquet has both as they are."""
    prediction = renamed([text, "B"], ["A", text])
    write_scores(prediction, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head[3:] == [f"'{text}", "B"]
    assert [row[0] for row in rows] == ["A", f"'{text}"]
    write_scores(prediction, tmp_path / "scores.parquet")
    read = pd.read_parquet(tmp_path / "scores.parquet")
    assert (read.columns[3], read["instrument"][1]) == (text, text)


def test_no_cell_begins_a_line(tmp_path: Path) -> None:
    """A carriage return in a name would, and what follows it would be a formula."""
    write_scores(renamed(["A\r=1", "B"], ["A", "x\r\n=2"]), tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head[3:] == ["A\\r=1", "B"]
    assert [row[0] for row in rows] == ["A", "x\\r\n=2"]


def test_other_endings_are_refused(tmp_path: Path) -> None:
    """Nothing is written in a format that was not asked for."""
    with pytest.raises(BundleError) as raised:
        write_scores(predicted(), tmp_path / "scores.xlsx")
    assert raised.value.slug == "unknown-format"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """The target is replaced whole or not at all."""
    with pytest.raises(SotaError) as raised:
        write_scores(predicted(), tmp_path / "missing" / "scores.csv")
    assert raised.value.slug == "cannot-write"

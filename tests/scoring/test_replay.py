"""Replaying: exact for LightGBM, and whatever is not the back-test's model, order or data shows."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import (
    BOOSTER_NAME,
    META_NAME,
    ORDER_NAME,
    PREDICTIONS_NAME,
    REPLAY_NAME,
    SLICE_NAME,
)
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.booster import load_booster
from rdagent_sota_patch.scoring.replay import Replayed, compare_scores, replay_slice
from rdagent_sota_patch.scoring.scoring import load_scorer, score_days
from tests.bundle.made import (
    ALPHA,
    COMPARED_DAYS,
    INSTRUMENTS,
    Kind,
    edit_document,
    make_bundle,
    replace_file,
    train_booster,
)

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("pattern") / "bundle").folder


@pytest.fixture
def folder(pattern: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pattern, tmp_path / "bundle")


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_thread_of_arrows_is_left_with_the_bytes(pattern: Path) -> None:
    """One that lets go of them while Python ends aborts the process, and with it the exit code of `verify`."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from rdagent_sota_patch.bundle.opening import open_bundle\n"
        "from rdagent_sota_patch.scoring.replay import read_frame\n"
        "bundle = open_bundle(Path(sys.argv[1]))\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "frame = read_frame(bundle, sys.argv[2])\n"
        "print(len(frame) > 0, len(os.listdir('/proc/self/task')) - before)\n"
    )
    command = [sys.executable, "-c", program, str(pattern), SLICE_NAME]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True 0\n"


@pytest.mark.parametrize("kind", ["lightgbm", "tabular", "time_series"])
def test_a_bundle_replays_its_back_test(tmp_path: Path, kind: Kind) -> None:
    """All rows of the compared days; LightGBM to the last bit."""
    made = make_bundle(tmp_path / "bundle", kind)
    replayed = replay_slice(made.folder, trust=True)
    assert replayed.within
    assert (replayed.rows, replayed.days) == (COMPARED_DAYS * len(INSTRUMENTS), COMPARED_DAYS)
    assert replayed.limit == (0.0 if kind == "lightgbm" else 1e-6)
    assert replayed.max_difference <= replayed.limit
    assert replayed.rank_correlation == pytest.approx(1.0)


def rewrite(folder: Path, name: str, change: Change) -> None:
    """A parquet file of the bundle, changed and listed again."""
    buffer = BytesIO()
    change(pd.read_parquet(folder / name)).to_parquet(buffer)
    replace_file(folder, name, buffer.getvalue())


def in_table_order(order: dict[str, Any]) -> None:
    """Alpha first, then the mined factors: the order that first comes to mind."""
    order["factor_order"] = [*ALPHA, *order["dynamic_factor_order"]]


def test_a_wrong_order_is_caught(folder: Path) -> None:
    """Scores come out, of other ranks, and no error by themselves: the replay shows it."""
    edit_document(folder, ORDER_NAME, in_table_order)
    replayed = replay_slice(folder)
    assert not replayed.within
    assert replayed.max_difference > 0.01
    assert replayed.rank_correlation is not None and replayed.rank_correlation < 0.9


def test_another_model_is_caught(folder: Path) -> None:
    """One trained on the same number of features."""
    samples = np.random.default_rng(8).normal(size=(60, 4))
    replace_file(folder, BOOSTER_NAME, train_booster(samples).model_to_string().encode())
    assert not replay_slice(folder).within


def shift_a_mean(meta: dict[str, Any]) -> None:
    meta["processors"][0]["mean"][0] += 0.005


def forget_the_processors(meta: dict[str, Any]) -> None:
    meta["processors"] = []


@pytest.mark.parametrize("change", [shift_a_mean, forget_the_processors])
def test_other_processors_are_caught(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A number that was not fitted so, or no processor at all."""
    edit_document(folder, META_NAME, change)
    assert not replay_slice(folder).within


def nudge(frame: pd.DataFrame) -> pd.DataFrame:
    frame.iloc[-1, 0] = np.nextafter(frame.iloc[-1, 0], np.inf)
    return frame


def test_the_last_bit_of_a_prediction_is_caught(folder: Path) -> None:
    """Exactly 0 means exactly 0."""
    rewrite(folder, PREDICTIONS_NAME, nudge)
    replayed = replay_slice(folder)
    assert not replayed.within
    assert 0 < replayed.max_difference < 1e-12


def test_a_prediction_too_few_is_caught(folder: Path) -> None:
    """Rows that only one side has cannot be equal."""
    rewrite(folder, PREDICTIONS_NAME, lambda frame: frame.iloc[:-1])
    replayed = replay_slice(folder)
    assert replayed.max_difference == math.inf and not replayed.within
    rewrite(folder, PREDICTIONS_NAME, lambda frame: frame.iloc[:0])
    assert not replay_slice(folder).within


def look_elsewhere(notes: dict[str, Any]) -> None:
    notes["days"] = ["1999-01-04"]


def test_days_without_predictions_replay_nothing(folder: Path) -> None:
    """No rows are no agreement."""
    edit_document(folder, REPLAY_NAME, look_elsewhere)
    replayed = replay_slice(folder)
    assert replayed.rows == 0 and not replayed.within


def test_without_evidence_there_is_nothing_to_replay(tmp_path: Path) -> None:
    """Exported with --no-replay."""
    made = make_bundle(tmp_path / "bundle", replay=False)
    with pytest.raises(BundleError) as caught:
        replay_slice(made.folder)
    assert caught.value.slug == "no-replay"


def notes(*days: str) -> bytes:
    document = {"schema_version": 1, "days": days, "predictions_rows": 0, "slice_rows": 1}
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (REPLAY_NAME, b"{}"),
        (REPLAY_NAME, notes()),
        (REPLAY_NAME, notes("x")),
        (SLICE_NAME, b"no parquet"),
        (PREDICTIONS_NAME, b"PAR1"),
    ],
)
def test_evidence_that_cannot_be_read(folder: Path, name: str, content: bytes) -> None:
    """Listed as it is, so it is not altered; and still no evidence."""
    replace_file(folder, name, content)
    with pytest.raises(BundleError) as caught:
        replay_slice(folder)
    assert caught.value.slug == "replay-damaged"


def days_as_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index().astype({"datetime": str}).set_index(list(frame.index.names))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SLICE_NAME, lambda frame: frame.iloc[1:]),
        (SLICE_NAME, lambda frame: frame.drop(columns="KLEN")),
        (SLICE_NAME, lambda frame: frame.astype(str)),
        (SLICE_NAME, lambda frame: frame.reset_index(drop=True)),
        (PREDICTIONS_NAME, lambda frame: frame.rename(columns={"score": "rank"})),
        (PREDICTIONS_NAME, lambda frame: pd.concat([frame, frame])),
        (PREDICTIONS_NAME, days_as_text),
    ],
)
def test_evidence_of_another_shape(folder: Path, name: str, change: Change) -> None:
    """Rows, columns or types that it cannot have."""
    rewrite(folder, name, change)
    with pytest.raises(BundleError) as caught:
        replay_slice(folder)
    assert caught.value.slug == "replay-damaged"


def test_comparing_missing_scores(folder: Path) -> None:
    """Missing on both sides is equal, on one it is not; a constant has no rank correlation."""
    meta = open_bundle(folder).model[1]
    index = pd.MultiIndex.from_product(
        [[pd.Timestamp("2020-01-01")], ["A", "B", "C"]], names=["datetime", "instrument"]
    )
    scores = pd.Series([1.0, np.nan, 2.0], index=index)
    same = compare_scores(scores, scores[::-1], meta)
    assert same == Replayed(3, 1, 0.0, pytest.approx(1.0), exact_required=True)
    assert compare_scores(scores, scores.fillna(0), meta).max_difference == math.inf
    assert compare_scores(scores * 0, scores * 0, meta).rank_correlation is None


def test_a_feature_count_off_by_one_is_refused(folder: Path) -> None:
    """Weights of a model on other features do not score at all."""
    samples = np.random.default_rng(8).normal(size=(60, 5))
    replace_file(folder, BOOSTER_NAME, train_booster(samples).model_to_string().encode())
    with pytest.raises(BundleError) as caught:
        replay_slice(folder)
    assert caught.value.slug == "model-input-mismatch"


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff"])
def test_weights_that_are_none_are_refused(folder: Path, content: bytes) -> None:
    """Before LightGBM sees them."""
    replace_file(folder, BOOSTER_NAME, content)
    with pytest.raises(BundleError) as caught:
        load_booster(open_bundle(folder))
    assert caught.value.slug == "model-unreadable"


def test_only_the_models_own_columns_are_scored(folder: Path) -> None:
    """Another order, one too few, one too many, rows twice: each is said, none is mended."""
    bundle = open_bundle(folder)
    scorer = load_scorer(bundle, trust=False)
    raw = pd.read_parquet(folder / SLICE_NAME)
    day = [raw.index[-1][0]]
    assert len(score_days(bundle, scorer, raw, day)) == len(INSTRUMENTS)
    wrong = [raw[raw.columns[::-1]], raw.drop(columns="ROC5"), raw.assign(Other=1.0), pd.concat([raw, raw])]
    texts = ["another order", "missing: ROC5", "not the model's: Other", "some twice"]
    for frame, text in zip(wrong, texts, strict=True):
        with pytest.raises(BundleError, match=text) as caught:
            score_days(bundle, scorer, frame, day)
        assert caught.value.slug == "model-input-mismatch"

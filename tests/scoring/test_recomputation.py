"""A whole back-test from market data, and Alpha features by Qlib on the way."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import lightgbm
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import META_NAME, PREDICTIONS_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import read_market
from rdagent_sota_patch.scoring.alpha import alpha_request, compute_alpha
from rdagent_sota_patch.scoring.market_days import MarketFiles
from rdagent_sota_patch.scoring.recomputation import RecomputeOptions, recompute
from tests.bundle.made import edit_document, make_bundle, process, replace_file
from tests.scoring.made_market import MadeMarket, expect_features, make_market

DAYS = pd.bdate_range("2020-10-05", "2020-10-12")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    return make_market(tmp_path_factory.mktemp("market"))


def ship_back_test(folder: Path, made: MadeMarket) -> pd.DataFrame:
    """Give a made bundle the predictions that its model makes of this market; returns the features."""
    bundle = open_bundle(folder)
    _, meta = bundle.model
    features = expect_features(made.market).loc[DAYS[0] : DAYS[-1]]
    booster = lightgbm.Booster(model_file=folder / "model.txt")
    scores = pd.DataFrame({"score": booster.predict(process(features, meta.processors))}, features.index)
    file = io.BytesIO()
    scores.to_parquet(file)
    replace_file(folder, PREDICTIONS_NAME, file.getvalue())
    return features


def test_computes_the_back_test_to_the_bit(tmp_path: Path, made: MadeMarket) -> None:
    """Factor code, Qlib, join, order, processors and model together give the very scores that were shipped."""
    folder = make_bundle(tmp_path / "bundle").folder
    ship_back_test(folder, made)
    replayed = recompute(
        open_bundle(folder), made.files, lambda *_: None, RecomputeOptions(jobs=os.cpu_count() or 1)
    )
    assert (replayed.rows, replayed.days) == (len(DAYS) * 51, len(DAYS))
    assert replayed.max_difference == 0.0
    assert replayed.rank_correlation == pytest.approx(1.0)
    assert replayed.within


def test_says_what_is_odd_about_the_data_folder(tmp_path: Path, made: MadeMarket) -> None:
    """The whole folder is given, and what is odd about it is told; a table that goes further is cut for the factors."""
    folder = make_bundle(tmp_path / "bundle").folder
    ship_back_test(folder, made)
    data = tmp_path / "data"
    data.mkdir()
    assert made.files.data is not None
    shutil.copy(made.files.data, data / "daily_pv.h5")
    (data / "sectors.csv").write_text("instrument,sector\nSH600000,7\n")
    days = pd.Series(pd.bdate_range("2020-08-03", "2021-06-30"), name="datetime")
    pd.DataFrame({"datetime": days, "instrument": "SH600000", "flow": 1.0}).to_csv(
        data / "flow.csv", index=False
    )
    told: list[Problem] = []
    market = MarketFiles(data, made.files.qlib_dir)
    replayed = recompute(open_bundle(folder), market, lambda *_: None, None, told.append)
    assert replayed.max_difference == 0.0
    assert [notice.slug for notice in told] == ["data-file-undated"]
    with Jail() as jail:
        table = read_market(data, jail=jail)
        given = table.as_one()
        assert pd.read_csv(given / "flow.csv")["datetime"].max() == f"{table.days[-1]:%Y-%m-%d}"
        (data / "flow.csv").unlink()
        assert read_market(data, jail=jail).as_one() == data


def test_needs_the_predictions(tmp_path: Path, made: MadeMarket) -> None:
    """A bundle without its evidence has nothing to be compared with."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle", replay=False).folder)
    with pytest.raises(BundleError) as raised:
        recompute(bundle, made.files, lambda *_: None)
    assert raised.value.slug == "no-replay"


def test_an_older_day_or_row_that_one_source_lacks(tmp_path: Path, made: MadeMarket) -> None:
    """A day is an error, before any factor is run; of a stock's row it is told, and the scores decide."""
    assert made.files.data is not None
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    market = MarketFiles(tmp_path / "daily_pv.h5", made.files.qlib_dir)
    frame = pd.read_hdf(made.files.data, key="data")
    stocks, days = (frame.index.get_level_values(name) for name in ("instrument", "datetime"))
    frame[days != "2020-08-12"].to_hdf(tmp_path / "daily_pv.h5", key="data", mode="w")
    with pytest.raises(BundleError, match="2020-08-12") as raised:
        recompute(bundle, market, lambda *_: None)
    assert [problem.slug for problem in raised.value.problems] == ["market-data-mismatch"]
    frame[(days != "2020-08-12") | (stocks != "SH600003")].to_hdf(
        tmp_path / "daily_pv.h5", key="data", mode="w"
    )
    told: list[Problem] = []
    assert recompute(bundle, market, lambda *_: None, tell=told.append).rows
    assert [problem.slug for problem in told] == ["market-data-mismatch"]
    assert "SH600003 on 2020-08-12" in told[0].message


def test_needs_the_whole_period(tmp_path: Path, made: MadeMarket) -> None:
    """Market data that begins or ends inside the back-test, or is not there, is refused before anything runs."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    calendar = made.files.qlib_dir / "calendars" / "day.txt"
    whole = calendar.read_text()
    try:
        calendar.write_text("\n".join(f"{day:%Y-%m-%d}" for day in DAYS[1:-1]) + "\n")
        with pytest.raises(BundleError) as raised:
            recompute(bundle, made.files, lambda *_: None)
    finally:
        calendar.write_text(whole)
    assert [problem.slug for problem in raised.value.problems] == ["no-history", "market-data-too-short"]
    with pytest.raises(BundleError) as raised:
        recompute(bundle, MarketFiles(tmp_path / "gone.h5", made.files.qlib_dir), lambda *_: None)
    assert raised.value.slug == "market-data-unreadable"


def test_a_request_reaches_back_as_far_as_exactness_needs(tmp_path: Path) -> None:
    """A day in the back-test is computed from the training's first day, as is an average that never forgets."""
    folder = make_bundle(tmp_path / "bundle").folder
    day = DAYS[-1:]

    def starts() -> tuple[str, str]:
        _, meta = open_bundle(folder).model
        return (
            alpha_request(meta, tmp_path, day, as_trained=False, jobs=1).start,
            alpha_request(meta, tmp_path, day, as_trained=True, jobs=1).start,
        )

    assert starts() == ("2020-10-12", "2020-10-12")
    edit_document(
        folder,
        META_NAME,
        lambda document: document["handler"]["kwargs"].update(start_time="2020-01-01"),
    )
    assert starts() == ("2020-10-12", "2020-01-01")
    edit_document(
        folder,
        META_NAME,
        lambda document: document["alpha"][0].update(expression="EMA($close, 12)/$close"),
    )
    assert starts() == ("2020-01-01", "2020-01-01")


def test_qlibs_failure_is_told(tmp_path: Path, made: MadeMarket) -> None:
    """A folder without data ends with Qlib's own last words; an expression that is code never gets there."""
    _, meta = open_bundle(make_bundle(tmp_path / "bundle").folder).model
    request = alpha_request(meta, tmp_path / "nowhere", DAYS, as_trained=False, jobs=1)
    with pytest.raises(BundleError, match="nowhere") as raised:
        compute_alpha(request)
    assert raised.value.slug == "alpha-failed"
    evil = meta.model_copy(
        update={"alpha": (meta.alpha[0].model_copy(update={"expression": "__import__('os').getcwd()"}),)}
    )
    with pytest.raises(BundleError) as raised:
        compute_alpha(alpha_request(evil, made.files.qlib_dir, DAYS, as_trained=False, jobs=1))
    assert raised.value.slug == "expression-refused"

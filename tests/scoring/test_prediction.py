"""One day's scores from market data, with real factor code, Qlib and LightGBM."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, META_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.day_page import render_page
from rdagent_sota_patch.scoring.market_days import MarketFiles
from rdagent_sota_patch.scoring.prediction import PredictOptions, predict_day
from tests.bundle.made import FACTOR_CODE, ORDER, edit_document, make_bundle, process
from tests.scoring.made_market import (
    GONE,
    NEW,
    SPLIT,
    UNKNOWN,
    MadeMarket,
    expect_features,
    make_market,
    make_patchy_market,
)
from tests.scoring.test_mined import verdict

# The day before the last: the new stock then has one day, too few for any factor.
LAST_KNOWN = date(2020, 11, 12)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    return make_market(tmp_path_factory.mktemp("market"))


def ignore(*_: object) -> None:
    """No progress is shown."""


def test_scores_a_new_day(tmp_path: Path) -> None:
    """Scores are those of features computed here; who lacks data is left out, with the reason; no replay/ is needed."""
    import lightgbm

    patchy = make_patchy_market(tmp_path)
    folder = make_bundle(tmp_path / "bundle").folder
    shutil.rmtree(folder / "replay")
    bundle = open_bundle(folder, replay=False)
    day = patchy.market.days[-1]
    told: list[tuple[str, int, int]] = []
    prediction = predict_day(
        bundle,
        patchy.files,
        PredictOptions(day.date(), top=5, explain=True, jobs=2),
        lambda *step: told.append(step),
    )

    assert prediction.left_out[UNKNOWN] == "no mined factor has a value"
    assert prediction.left_out[NEW].startswith("lacks ZMom,")
    assert prediction.left_out[GONE] == "no data in Qlib"
    assert "daily_pv.h5" in prediction.left_out[SPLIT]
    assert len(prediction.left_out) == 4

    features = expect_features(patchy.market).loc[day].drop(index=[UNKNOWN, NEW, GONE, SPLIT])
    pd.testing.assert_frame_equal(
        prediction.features.sort_index(), features, check_exact=True, check_names=False
    )
    _, meta = bundle.model
    booster = lightgbm.Booster(model_file=folder / "model.txt")
    expected = pd.Series(booster.predict(process(features, meta.processors)), index=features.index)
    assert (prediction.scores["score"].sort_index() == expected).all()
    assert (np.diff(prediction.scores["score"]) <= 0).all()

    frame = prediction.frame
    assert list(frame.columns) == ["instrument", "score", "rank", *ORDER]
    assert frame["rank"].tolist() == [1, 2, 3, 4, 5]
    assert prediction.coverage == {"GapA": 50 / 51, "KLEN": 50 / 51, "ROC5": 50 / 51, "ZMom": 49 / 51}
    assert [notice.slug for notice in prediction.notices] == ["factors-not-audited", "back-test-scores-more"]
    assert f"scores: {UNKNOWN}, {NEW}." in prediction.notices[1].message
    assert {stage for stage, *_ in told} == {"market", "factors", "alpha", "scores"}
    page = render_page(prediction, bundle)
    assert all(name in page for name in (*frame["instrument"], *prediction.left_out, *ORDER))


def test_everything_against_a_day_is_said_at_once(tmp_path: Path, made: MadeMarket) -> None:
    """A factor that sees the future, and a day after both sources' ends, before anything is run."""
    folder = make_bundle(tmp_path / "bundle").folder
    code = FACTOR_CODE.format(name="GapA", days=1)

    def audit(document: dict[str, Any]) -> None:
        document["audit"] = {
            "audited_at_utc": "2026-01-01T00:00:00+00:00",
            "data_start": "2020-01-01",
            "data_end": "2020-12-31",
            "cuts": [],
            "factors": [verdict(code, lookback=200, causal=False)],
        }

    edit_document(folder, MANIFEST_NAME, audit)
    bundle = open_bundle(folder)
    with pytest.raises(BundleError) as raised:
        predict_day(bundle, made.files, PredictOptions(date(2021, 3, 1)), ignore)
    slugs = [problem.slug for problem in raised.value.problems]
    assert slugs == ["factor-not-causal", "market-data-too-short", "market-data-too-short"]
    with pytest.raises(BundleError, match="GapA needs 200") as raised:
        predict_day(bundle, made.files, PredictOptions(date(2020, 10, 20), allow_lookahead=True), ignore)
    assert [problem.slug for problem in raised.value.problems] == ["no-history"]


def test_a_factor_that_could_not_be_judged_is_not_called_one_that_looks_ahead(
    tmp_path: Path, made: MadeMarket
) -> None:
    """Its own error with the audit's reason; gone on with where that is asked for."""
    folder = make_bundle(tmp_path / "bundle").folder
    unjudged = verdict(FACTOR_CODE.format(name="GapA", days=1), lookback=None, causal=False)
    unjudged |= {"causal": None, "reason": "It fails on the whole market data: KeyError."}

    def audit(document: dict[str, Any]) -> None:
        document["audit"] = {
            "schema_version": 2,
            "audited_at_utc": "2026-01-01T00:00:00+00:00",
            "data_start": "2020-01-01",
            "data_end": "2020-12-31",
            "cuts": [],
            "factors": [unjudged],
        }

    edit_document(folder, MANIFEST_NAME, audit)
    bundle, day = open_bundle(folder), date(2020, 10, 20)
    with pytest.raises(BundleError, match="KeyError") as raised:
        predict_day(bundle, made.files, PredictOptions(day), ignore)
    assert [problem.slug for problem in raised.value.problems] == ["factor-not-judged"]
    prediction = predict_day(bundle, made.files, PredictOptions(day, allow_lookahead=True, jobs=2), ignore)
    assert "factor-not-judged" in [notice.slug for notice in prediction.notices]


def test_an_older_day_that_one_source_lacks_is_an_error(tmp_path: Path, made: MadeMarket) -> None:
    """Else every factor's history is shifted by a day, and nobody sees it."""
    assert made.files.data is not None
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    frame = pd.read_hdf(made.files.data, key="data")
    older = frame.index.get_level_values("datetime") == "2020-10-16"
    frame[~older].to_hdf(tmp_path / "daily_pv.h5", key="data")
    market = MarketFiles(tmp_path / "daily_pv.h5", made.files.qlib_dir)
    with pytest.raises(
        BundleError, match="lacks 1 trading days that Qlib's calendar has: 2020-10-16"
    ) as raised:
        predict_day(bundle, market, PredictOptions(date(2020, 10, 20)), ignore)
    assert [problem.slug for problem in raised.value.problems] == ["market-data-mismatch"]


def test_an_older_day_that_one_source_lacks_of_a_stock_is_an_error(tmp_path: Path, made: MadeMarket) -> None:
    """That stock's history is shifted as well; the message names stock and day."""
    assert made.files.data is not None
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    frame = pd.read_hdf(made.files.data, key="data")
    stocks, days = (frame.index.get_level_values(name) for name in ("instrument", "datetime"))
    frame[~((stocks == SPLIT) & (days == "2020-10-26"))].to_hdf(tmp_path / "daily_pv.h5", key="data")
    market = MarketFiles(tmp_path / "daily_pv.h5", made.files.qlib_dir)
    with pytest.raises(
        BundleError, match=f"daily_pv.h5 lacks trades of 1 stocks .* {SPLIT} on 2020-10-26"
    ) as raised:
        predict_day(bundle, market, PredictOptions(date(2020, 10, 30)), ignore)
    assert [problem.slug for problem in raised.value.problems] == ["market-data-mismatch"]


def test_a_halted_stock_is_not_one_that_a_source_lacks(tmp_path: Path, made: MadeMarket) -> None:
    """NaN in Qlib's data and no row in the other, or a row without a volume."""
    assert made.files.data is not None
    shutil.copytree(made.files.qlib_dir, tmp_path / "qlib")
    away = {SPLIT: slice(10, 20), GONE: slice(30, 40)}
    for stock, span in away.items():
        for field in ("open", "close", "high", "low", "volume"):
            path = tmp_path / "qlib" / "features" / stock.lower() / f"{field}.day.bin"
            values = np.fromfile(path, "<f4")
            values[1:][span] = np.nan
            values.tofile(path)
    frame = pd.read_hdf(made.files.data, key="data")
    stocks, days = (frame.index.get_level_values(name) for name in ("instrument", "datetime"))
    calendar = made.market.days
    frame.loc[(stocks == GONE) & days.isin(calendar[away[GONE]]), "$volume"] = 0
    frame[~((stocks == SPLIT) & days.isin(calendar[away[SPLIT]]))].to_hdf(
        tmp_path / "daily_pv.h5", key="data"
    )
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    market = MarketFiles(tmp_path / "daily_pv.h5", tmp_path / "qlib")
    prediction = predict_day(bundle, market, PredictOptions(made.market.days[-1].date(), jobs=2), ignore)
    assert len(prediction.scores) == 51


def test_a_holiday_is_said_once(tmp_path: Path, made: MadeMarket) -> None:
    """Both sources lack it; one message with the nearest days is enough."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    with pytest.raises(BundleError, match="2020-10-16 and 2020-10-19") as raised:
        predict_day(bundle, made.files, PredictOptions(date(2020, 10, 18)), ignore)
    assert [problem.slug for problem in raised.value.problems] == ["not-a-trading-day"]


def test_a_window_of_days_needs_them(tmp_path: Path, made: MadeMarket) -> None:
    """A TimeSeries model that looks at three days cannot score the second."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle", "time_series").folder)
    with pytest.raises(BundleError) as raised:
        predict_day(bundle, made.files, PredictOptions(made.market.days[1].date()), ignore)
    assert [problem.slug for problem in raised.value.problems] == ["no-history", "no-history"]


def test_mined_factors_need_their_data(tmp_path: Path, made: MadeMarket) -> None:
    """Without --data nothing is guessed."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle").folder)
    with pytest.raises(BundleError, match="--data") as raised:
        predict_day(
            bundle, MarketFiles(None, made.files.qlib_dir), PredictOptions(date(2020, 10, 20)), ignore
        )
    assert raised.value.slug == "market-data-needed"


def test_stocks_of_another_market(tmp_path: Path, made: MadeMarket) -> None:
    """A market that Qlib's data does not have is an error before any factor runs."""
    folder = make_bundle(tmp_path / "bundle").folder
    edit_document(folder, META_NAME, lambda document: document.update(instruments="csi1000"))
    with pytest.raises(BundleError, match="csi1000") as raised:
        predict_day(open_bundle(folder), made.files, PredictOptions(date(2020, 10, 20)), ignore)
    assert raised.value.slug == "unknown-market"


def test_factors_alone_predict_nothing(tmp_path: Path, made: MadeMarket) -> None:
    """A bundle without a model says so."""
    bundle = open_bundle(make_bundle(tmp_path / "bundle", factors_only=True).folder)
    with pytest.raises(BundleError) as raised:
        predict_day(bundle, made.files, PredictOptions(date(2020, 10, 20)), ignore)
    assert raised.value.slug == "bundle-without-model"

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.demo.script import FACTOR_SCRIPT, ScriptedFactor
from rdagent_sota_patch.demo.synthetic_market import (
    BENCHMARK,
    Market,
    MarketSpec,
    Segments,
    Spelling,
    simulate_market,
    write_factor_data,
    write_qlib_data,
)


@pytest.fixture(scope="module")
def market() -> Market:
    """The market that the demonstration uses."""
    return simulate_market(MarketSpec())


@pytest.fixture(scope="module")
def factor_data(market: Market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the full ``daily_pv.h5``, beside one for debugging."""
    folder = tmp_path_factory.mktemp("data")
    write_factor_data(market, folder / "full", folder / "debug")
    return folder / "full"


def mean_daily_ic(factor: pd.Series, market: Market) -> float:
    """Mean daily correlation of a factor with the label of RD-Agent's templates."""
    close = pd.DataFrame(market.fields["close"], index=market.days, columns=list(market.instruments))
    label = close.shift(-2) / close.shift(-1) - 1
    return float(factor.unstack("instrument").corrwith(label, axis=1).mean())


def run_factor_code(factor: ScriptedFactor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> pd.Series:
    """Run a scripted ``factor.py`` beside its data and read what it wrote."""
    monkeypatch.chdir(folder)
    exec(compile(factor.code, "factor.py", "exec"), {})
    return pd.read_hdf("result.h5", key="data")[factor.name]


def test_market_is_determined_by_its_specification(market: Market) -> None:
    """The same seed gives the same market, another seed another one."""
    again, other = simulate_market(MarketSpec()), simulate_market(MarketSpec(seed=21))

    assert np.array_equal(market.fields["close"], again.fields["close"])
    assert not np.array_equal(market.fields["close"], other.fields["close"])


def test_market_covers_the_segments(market: Market) -> None:
    """Data starts before the training segment and the calendar goes on after the back-test."""
    segments = Segments()

    assert market.days[0] < pd.Timestamp(segments.train[0]) - pd.Timedelta(days=180)
    assert market.days[-1] > pd.Timestamp(segments.test[1])


def test_prices_are_consistent(market: Market) -> None:
    """High and low enclose open and close, and no stock moves beyond the limit board."""
    opening, close = market.fields["open"], market.fields["close"]

    assert (market.fields["high"] >= np.maximum(opening, close)).all()
    assert (market.fields["low"] <= np.minimum(opening, close)).all()
    assert np.abs(market.fields["change"]).max() < 0.095


def test_too_few_stocks_are_refused() -> None:
    """A market that the template's strategy cannot fill is refused."""
    with pytest.raises(ValueError, match="at least 51"):
        MarketSpec(stocks=50)


@pytest.mark.parametrize(
    ("factor", "accepted"),
    [
        pytest.param(factor, proposal.accept, id=factor.name)
        for proposal in FACTOR_SCRIPT
        for factor in proposal.factors
    ],
)
def test_accepted_factors_catch_the_planted_effect(
    factor: ScriptedFactor,
    accepted: bool,
    market: Market,
    factor_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each accepted factor predicts the label by itself; the rejected one does not."""
    values = run_factor_code(factor, factor_data, monkeypatch)

    assert values.index.names == ["datetime", "instrument"]
    assert values.notna().all()
    assert (mean_daily_ic(values, market) > 0.05) == accepted


def test_debug_data_is_a_part_of_the_full_data(factor_data: Path) -> None:
    """The debug folder holds some of the stocks with all their days, and both folders explain themselves."""
    debug = factor_data.with_name("debug")
    full_frame, debug_frame = (
        pd.DataFrame(pd.read_hdf(folder / "daily_pv.h5", "data")) for folder in (factor_data, debug)
    )

    assert list(full_frame.columns) == ["$open", "$close", "$high", "$low", "$volume", "$factor"]
    assert 0 < len(debug_frame) < len(full_frame)
    pd.testing.assert_frame_equal(debug_frame, full_frame.reindex(debug_frame.index))
    assert "key is always" in (debug / "README.md").read_text(encoding="utf-8")


def test_feature_file_is_float32_after_its_start_index(market: Market, tmp_path: Path) -> None:
    """A feature file is little-endian float32 and begins with its start in the calendar."""
    write_qlib_data(market, tmp_path)
    values = np.fromfile(tmp_path / "features" / "sh600003" / "open.day.bin", dtype="<f4")

    assert values[0] == 0
    assert np.array_equal(values[1:], market.fields["open"][:, 3].astype("<f4"))


def test_the_spelling_changes_names_alone() -> None:
    """With the exchange at the end the prices are the same, and both exchanges are there."""
    market, other = (
        simulate_market(MarketSpec(stocks=51, spelling=spelling)) for spelling in ("SH600000", "000001.SZ")
    )

    assert (market.instruments[:2], other.instruments[:2]) == (
        ("SH600000", "SH600001"),
        ("600000.SH", "000001.SZ"),
    )
    assert (market.benchmark, other.benchmark) == (BENCHMARK, "000300.SH")
    assert np.array_equal(market.fields["close"], other.fields["close"])


@pytest.mark.real
@pytest.mark.parametrize("spelling", ["SH600000", "000001.SZ"])
def test_qlib_reads_the_market(spelling: Spelling, tmp_path: Path) -> None:
    """Qlib's own reader finds the calendar, the universe, the prices and the benchmark."""
    market = simulate_market(MarketSpec(spelling=spelling))
    stock = market.instruments[1]
    write_qlib_data(market, tmp_path)
    program = f"""
        import json
        import qlib
        from qlib.data import D

        qlib.init(provider_uri={str(tmp_path)!r}, region="cn")
        stocks = D.list_instruments(D.instruments("csi300"), as_list=True)
        frame = D.features(["{stock}", "{BENCHMARK}"], ["$close", "Ref($close, -2)/Ref($close, -1)-1"])
        print(json.dumps([len(D.calendar()), len(stocks), frame.loc["{stock}"].iloc[9].tolist(),
                          int(frame.loc["{BENCHMARK}"]["$close"].notna().sum())]))
        """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True, env=os.environ
    )
    days, stocks, (close, label), benchmark_days = json.loads(done.stdout.splitlines()[-1])
    prices = market.fields["close"][:, 1]

    assert days == benchmark_days == len(market.days)
    assert stocks == len(market.instruments)
    assert close == pytest.approx(prices[9], rel=1e-6)
    assert label == pytest.approx(prices[11] / prices[10] - 1, abs=1e-5)

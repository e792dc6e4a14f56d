"""The audit itself, on real factor code in the real jail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_patch.audit.auditing import AuditOptions, audit_factors
from rdagent_sota_patch.audit.market import prepare_market
from rdagent_sota_patch.audit.verdicts import Audit, FactorVerdict
from rdagent_sota_patch.confinement.factors import run_trials
from rdagent_sota_patch.confinement.limits import Limits
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.prediction.mined import MinedFactor, cut_histories, run_mined
from tests.audit.factor_zoo import HONEST, LOOK_AHEAD, code_of, codes_of, write_market

QUICK = Limits(seconds=60, memory_mb=2048)


def by_name(audit: Audit) -> dict[str, FactorVerdict]:
    return {verdict.name: verdict for verdict in audit.factors}


@pytest.fixture(scope="module")
def verdicts(market_file: Path) -> dict[str, FactorVerdict]:
    codes = codes_of({**LOOK_AHEAD, **HONEST})
    return by_name(audit_factors(codes, market_file, AuditOptions(limits=QUICK, jobs=2, lookback=False)))


def test_the_zoo_is_large_enough() -> None:
    """A dozen of each kind at least, and none in both."""
    assert len(LOOK_AHEAD) >= 12
    assert len(HONEST) >= 12
    assert not LOOK_AHEAD.keys() & HONEST.keys()


@pytest.mark.parametrize("name", LOOK_AHEAD)
def test_look_ahead_is_caught(verdicts: dict[str, FactorVerdict], name: str) -> None:
    """A past that changes without its future saw it."""
    verdict = verdicts[name]
    assert verdict.causal is False
    assert 0 < verdict.changed_share <= 1
    assert verdict.earliest_day is not None
    assert verdict.lookback_days is None
    assert "data ends on" in verdict.reason


@pytest.mark.parametrize("name", HONEST)
def test_honest_factors_are_not_accused(verdicts: dict[str, FactorVerdict], name: str) -> None:
    """Long memory, cross-sections, rounding and files of its own are no look-ahead."""
    verdict = verdicts[name]
    assert (verdict.causal, verdict.changed_share, verdict.max_change, verdict.reason) == (True, 0.0, 0.0, "")
    assert verdict.earliest_day is None


def test_verdicts_come_in_the_order_that_was_asked_for(verdicts: dict[str, FactorVerdict]) -> None:
    """Whichever is done first."""
    assert list(verdicts) == [*LOOK_AHEAD, *HONEST]


def test_lookback_is_found_to_the_day(market_file: Path) -> None:
    """A shift by 20 days needs 21, a rank by day one, a sum from the beginning everything."""
    codes = codes_of({name: HONEST[name] for name in ("Momentum20", "RankByDay", "CumulativeVolume")})
    codes["Shift13"] = code_of("factor = long(wide.shift(13))")
    audit = audit_factors(codes, market_file, AuditOptions(limits=QUICK, jobs=2))
    found = {verdict.name: verdict.lookback_days for verdict in audit.factors}
    # Of a stock that was halted for six days, the row twenty rows before is 26 days old.
    assert found == {"Momentum20": 27, "RankByDay": 1, "CumulativeVolume": None, "Shift13": 14}


def test_a_failure_is_no_accusation(market_file: Path) -> None:
    """A factor that fails, is random, empty, or fails when cut could not be judged, and it is said why."""
    codes = {
        "Broken": "1 / 0",
        "Silent": "print('nothing')",
        "Quits": "raise SystemExit(3)",
        "Endless": "while True:\n    pass",
        "Empty": code_of("factor = close.where(close < 0)"),
        "Random": code_of("factor = close * np.random.rand(len(close))"),
        "Seeded": code_of("factor = close * np.random.default_rng(len(close)).random(len(close))"),
        "NeedsTheEnd": code_of("assert data.index[-1][0] > pd.Timestamp('2020-02-01')\nfactor = close"),
        "TwoColumns": code_of("factor = close").replace(".to_frame()", ".to_frame().assign(More=1.0)"),
        "TwiceADay": code_of("factor = pd.concat([close, close])"),
    }
    limits = Limits(seconds=8, memory_mb=2048)
    audit = audit_factors(codes, market_file, AuditOptions(limits=limits, jobs=2, lookback=False))
    reasons = {verdict.name: verdict.reason for verdict in audit.factors}
    answers = {verdict.name: verdict.causal for verdict in audit.factors}
    assert answers.pop("Seeded") is False
    assert set(answers.values()) == {None}
    assert "ZeroDivisionError" in reasons["Broken"]
    assert "was not written" in reasons["Silent"]
    assert "exits with 3" in reasons["Quits"]
    assert "not done after 8 seconds" in reasons["Endless"]
    assert "no value at all" in reasons["Empty"]
    assert "Two runs on the same data differ" in reasons["Random"]
    assert "values are others" in reasons["Seeded"]
    assert "It fails when the data ends on" in reasons["NeedsTheEnd"]
    assert "2 columns, not one" in reasons["TwoColumns"]
    assert "several values for one stock" in reasons["TwiceADay"]


SECOND = """
import os
import pandas as pd
net = pd.read_parquet("static_factors.parquet")["mf_net"].sort_index()
factor = {body}
factor.rename("Factor").to_frame().to_hdf("result.h5", key="data")
"""


@pytest.fixture(scope="module")
def folder(market_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a second market file, and a table without dates."""
    folder = tmp_path_factory.mktemp("folder")
    shutil.copy(market_file, folder / "daily_pv.h5")
    frame = pd.read_hdf(market_file, key="data")
    frame[["$volume"]].rename(columns={"$volume": "mf_net"}).assign(db_pe=1.0).to_parquet(
        folder / "static_factors.parquet"
    )
    pd.DataFrame({"field": ["mf_net"]}).to_csv(folder / "schema.csv", index=False)
    return folder


def test_every_file_of_the_folder_is_cut(folder: Path, tmp_path: Path, market_file: Path) -> None:
    """A peek into the second file is seen, an honest factor of it is not accused, and what each reads is told."""
    codes = {
        "Peek": SECOND.format(body="net.groupby(level='instrument').shift(-1)"),
        "Honest": SECOND.format(body="net.groupby(level='instrument').shift(2)"),
        "Described": SECOND.format(body="net * len(pd.read_csv('schema.csv'))"),
        "PricesAlone": code_of("factor = close"),
    }
    audit = by_name(audit_factors(codes, folder, AuditOptions(limits=QUICK, jobs=2)))
    assert {name: verdict.causal for name, verdict in audit.items()} == {
        "Peek": False,
        "Honest": True,
        "Described": True,
        "PricesAlone": True,
    }
    reads = {name: [(read.name, read.dated) for read in one.reads] for name, one in audit.items()}
    assert reads["Honest"] == [("static_factors.parquet", True)]
    assert reads["Described"] == [("schema.csv", False), ("static_factors.parquet", True)]
    assert reads["PricesAlone"] == [("daily_pv.h5", True)]
    assert audit["Honest"].reads[0].columns == ("mf_net",)
    assert audit["Honest"].lookback_days is not None and 3 <= audit["Honest"].lookback_days < 30
    alone = by_name(audit_factors({"Honest": codes["Honest"]}, market_file, AuditOptions(limits=QUICK)))[
        "Honest"
    ]
    assert alone.causal is None
    assert "asks for static_factors.parquet, which the data folder does not have" in alone.reason


def test_a_fallback_is_never_judged_in_place_of_the_factor(market_file: Path) -> None:
    """Code that looks for a file that was not given, and has something else to do without it."""
    code = (
        "import os\nimport pandas as pd\n"
        "df = pd.read_hdf('daily_pv.h5', key='data').sort_index()\n"
        "if os.path.exists('static_factors.h5'):\n"
        "    f = pd.read_hdf('static_factors.h5', key='data')['net'].groupby(level='instrument').shift(-1)\n"
        "else:\n"
        "    f = df['$close'] / df['$open'] * 0\n"
        "f.rename('X').to_frame().to_hdf('result.h5', key='data', mode='w')\n"
    )
    verdict = by_name(audit_factors({"X": code}, market_file, AuditOptions(limits=QUICK)))["X"]
    assert verdict.causal is None
    assert "static_factors.h5" in verdict.reason


@pytest.mark.parametrize("name", ["Mean20", "Neutralized", "WideDemeaned", "StocksFirst"])
def test_audit_and_prediction_run_code_alike(market_file: Path, name: str) -> None:
    """The same values to the last bit for the same code and day: both cut and run in the same way."""
    code = code_of(HONEST[name])
    with prepare_market(market_file, 8) as market:
        day = pd.Timestamp(market.cuts[3])
        names = frozenset(market.table.dated)
        with run_trials(code, market.until([market.cuts[3]], names), QUICK, jail=market.jail) as (run,):
            audited = run.values()
        factor = MinedFactor("Factor", code, None)
        histories = cut_histories([factor], market.table, pd.DatetimeIndex([day]))
        predicted = run_mined(
            histories.files, pd.DatetimeIndex([day]), limits=QUICK, jobs=1, report=lambda *_: None
        )
    expected = audited[audited.index.get_level_values("datetime") == day].sort_index()
    pd.testing.assert_frame_equal(predicted, expected, check_exact=True, check_dtype=True)


def test_a_day_appended_twice_is_no_factors_fault(market_file: Path, tmp_path: Path) -> None:
    """One error about the data, which names the day."""
    frame = pd.read_hdf(market_file, key="data")
    day = frame.index.get_level_values("datetime")[100]
    pd.concat([frame, frame.loc[[day]]]).to_hdf(tmp_path / "daily_pv.h5", key="data")
    with pytest.raises(BundleError, match=f"{day:%Y-%m-%d} has more than one row of SH") as caught:
        audit_factors({"A": code_of("factor = close")}, tmp_path / "daily_pv.h5")
    assert [problem.slug for problem in caught.value.problems] == ["market-data-unreadable"]


def test_bad_input(market_file: Path, tmp_path: Path) -> None:
    """No factor, no data, data that is too short, no market data at all."""
    with pytest.raises(BundleError) as nothing:
        audit_factors({}, market_file)
    assert nothing.value.slug == "nothing-to-audit"
    with pytest.raises(BundleError) as missing:
        audit_factors({"A": "pass"}, tmp_path / "none.h5")
    assert missing.value.slug == "market-data-unreadable"
    (tmp_path / "daily_pv.h5").write_bytes(b"not HDF5")
    with pytest.raises(BundleError) as unreadable:
        audit_factors({"A": "pass"}, tmp_path / "daily_pv.h5")
    assert unreadable.value.slug == "market-data-unreadable"
    write_market(tmp_path / "short.h5", days=30)
    with pytest.raises(BundleError) as short:
        audit_factors({"A": "pass"}, tmp_path / "short.h5")
    assert short.value.slug == "market-data-too-short"
    with pytest.raises(ValueError, match="8 cuts"):
        AuditOptions(cuts=3)

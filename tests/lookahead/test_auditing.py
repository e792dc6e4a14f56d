"""The audit itself, on real factor code in the real jail."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.lookahead.auditing import AuditOptions, audit_factors
from rdagent_sota_patch.lookahead.market_cuts import prepare_market
from rdagent_sota_patch.lookahead.verdicts import Audit, FactorVerdict
from rdagent_sota_patch.sandbox.factors import run_trials
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.scoring.mined import MinedFactor, cut_histories, run_mined
from tests.lookahead.factor_zoo import HONEST, LOOK_AHEAD, code_of, codes_of, write_market

QUICK = Limits(seconds=60, memory_mb=2048)


def by_name(audit: Audit) -> dict[str, FactorVerdict]:
    return {verdict.name: verdict for verdict in audit.factors}


def test_a_peek_and_an_honest_factor(market_file: Path) -> None:
    """A past that changes without its future saw it; and the verdict on the other says what would have been found."""
    codes = codes_of({"NextClose": LOOK_AHEAD["NextClose"], "RankByDay": HONEST["RankByDay"]})
    audit = audit_factors(codes, market_file, AuditOptions(limits=QUICK, jobs=2, lookback=False))
    peek, honest = audit.factors
    assert (peek.name, peek.causal, peek.power, peek.lookback_days) == ("NextClose", False, None, None)
    assert 0 < peek.changed_share <= 1
    assert peek.earliest_day is not None
    assert "data ends on" in peek.reason
    assert (honest.causal, honest.changed_share, honest.max_change, honest.reason) == (True, 0.0, 0.0, "")
    assert honest.earliest_day is None
    assert honest.power is not None
    assert 15 <= honest.power.cuts <= 40
    assert honest.power.days_share == pytest.approx(1 - 0.05 ** (1 / honest.power.cuts), abs=1e-6)
    assert honest.power.rows > 20 * honest.power.cuts


def test_each_file_is_cut_once_for_all_factors(
    market_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What several factors are cut at is read from the file once, and no factor's reading of it is among these."""
    cuttings: list[str] = []
    attempt = Jail.attempt

    def note(self: Jail, program: str, **how: Any) -> Any:
        cuttings.extend(re.findall(r"^cut\((.*)\)$", program, re.MULTILINE))
        return attempt(self, program, **how)

    monkeypatch.setattr(Jail, "attempt", note)
    options = AuditOptions(limits=QUICK, jobs=2, lookback=False)
    codes = codes_of({f"Same{number}": HONEST["Momentum20"] for number in range(3)})
    audit_factors(codes, market_file, options)
    # Once for the cuts spread over the time, once for the special ones, once for ends of the stocks' own.
    assert len(cuttings) == 3
    targets = [copy for plan in cuttings for copies in ast.literal_eval(plan).values() for copy in copies]
    kinds = [(copy["end"], copy["ends"], copy["altered_after"]) for copy in targets]
    assert len(kinds) == len(set(kinds))


def test_a_pool_of_processes_is_run(market_file: Path) -> None:
    """Judged like the code without it: nothing is said of a factor but what it does."""
    body = (
        "from {module} import {name}\n"
        "def work(rows):\n"
        "    return {work}\n"
        "with {name}(2) as pool:\n"
        "    factor = pd.concat(pool.map(work, [r for _, r in close.groupby(level='instrument')])).sort_index()"
    )
    honest, peek = "rows.rolling(5).mean()", "rows.shift(-1)"
    pools = {"Pool": "multiprocessing", "ProcessPoolExecutor": "concurrent.futures"}
    bodies = {
        f"{name} {work}": body.format(module=module, name=name, work=work)
        for name, module in pools.items()
        for work in (honest, peek)
    }
    options = AuditOptions(limits=QUICK, jobs=2, lookback=False)
    for verdict in audit_factors(codes_of(bodies), market_file, options).factors:
        assert verdict.causal is (honest in verdict.name), verdict


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

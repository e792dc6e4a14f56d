"""The audit itself, on real factor code in the real jail."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.audit.auditing import AuditOptions, audit_factors
from rdagent_sota_patch.audit.verdicts import Audit, FactorVerdict
from rdagent_sota_patch.confinement.limits import Limits
from rdagent_sota_patch.errors import BundleError
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
    assert "no result.h5" in reasons["Silent"]
    assert "exits with 3" in reasons["Quits"]
    assert "longer than 8 seconds" in reasons["Endless"]
    assert "no value at all" in reasons["Empty"]
    assert "Two runs on the same data differ" in reasons["Random"]
    assert "values are others" in reasons["Seeded"]
    assert "It fails when the data ends on" in reasons["NeedsTheEnd"]
    assert "not one column" in reasons["TwoColumns"]
    assert "several values for one stock" in reasons["TwiceADay"]


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

"""SOTA_REQUIRE_CAUSAL: only factors whose very code passed the look-ahead audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.errors import BundleError, SourceError
from rdagent_sota_patch.factor_table.provenance import FactorOrigin
from rdagent_sota_patch.factor_table.sources import Source
from rdagent_sota_patch.lookahead.kept import keep_audit
from rdagent_sota_patch.lookahead.verdicts import Audit, FactorVerdict, hash_code
from rdagent_sota_patch.plugin.causal import require_causal
from rdagent_sota_patch.settings import SourceKind


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The market data of this RD-Agent, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path))
    (tmp_path / "daily_pv.h5").write_bytes(b"prices")
    return tmp_path / "daily_pv.h5"


def keep(code: str, causal: bool, data: Path) -> None:
    """Keep a verdict as ``rdagent-sota audit`` does."""
    verdict = FactorVerdict(
        name="Any",
        causal=causal,
        changed_share=0.0 if causal else 0.5,
        max_change=None,
        lookback_days=5,
        code_sha256=hash_code(code),
        reason="" if causal else "Its past changes.",
    )
    keep_audit(Audit(audited_at_utc="", data_start="", data_end="", cuts=(), factors=(verdict,)), data)


def make_source(**codes: str | None) -> Source:
    path = Path("factors.parquet")
    origins = tuple(FactorOrigin(name=name, code=code) for name, code in codes.items() if code)
    return Source(SourceKind.FILE, path, path, origins=origins)


def test_audited_factors_pass(data: Path) -> None:
    """A clean verdict on the code is enough, whatever the factor was called when it was audited."""
    keep("code a", True, data)
    keep("code b", True, data)
    require_causal(make_source(A="code a", B="code b"), ("A", "B"))


def test_every_unproven_factor_is_told(data: Path) -> None:
    """Found to look ahead, audited with other code, never audited, and unknown: all at once."""
    keep("good", True, data)
    keep("peeks", False, data)
    keep("as it was", True, data)
    source = make_source(Good="good", Peeks="peeks", Edited="as it is", New="new")
    with pytest.raises(SourceError) as caught:
        require_causal(source, ("Good", "Peeks", "Edited", "New", "Foreign"))
    found = [(problem.slug, problem.message) for problem in caught.value.problems]
    assert [slug for slug, _ in found] == ["factor-not-causal", *["factor-not-audited"] * 3]
    for (_, message), name in zip(found, ("Peeks", "Edited", "New", "Foreign"), strict=True):
        assert message.startswith(name)
    assert "Its past changes." in found[0][1]


def test_only_the_tables_factors_count(data: Path) -> None:
    """What upstream left out of the table, as nearly another factor, needs no audit."""
    keep("good", True, data)
    require_causal(make_source(Good="good", LeftOut="never audited"), ("Good",))


def test_verdict_on_other_data_does_not_count(data: Path) -> None:
    """A look-ahead that older data did not show may be seen in today's."""
    keep("good", True, data)
    data.write_bytes(b"prices, and those of one more year")
    with pytest.raises(SourceError, match="factor-not-audited"):
        require_causal(make_source(Good="good"), ("Good",))


def test_verdicts_without_their_data_are_no_verdicts(data: Path) -> None:
    """Where RD-Agent's market data is gone, nothing says what the verdicts are worth."""
    keep("good", True, data)
    data.unlink()
    with pytest.raises(BundleError, match="market-data-unreadable"):
        require_causal(make_source(Good="good"), ("Good",))


def test_torn_verdict_is_no_verdict(data: Path) -> None:
    """A file that cannot be read is an error, and not an absent verdict."""
    keep("good", True, data)
    (kept,) = (data.parent / "cache").rglob("*.json")
    kept.write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="bad-audit"):
        require_causal(make_source(Good="good"), ("Good",))

"""A table is made again only from code that is vouched for, and with market data at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.factors.sources import Source
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.sessions.records import Session, Signature
from rdagent_sota_patch.settings import SourceKind


@pytest.fixture(autouse=True)
def market_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path))
    monkeypatch.delenv("ALLOW_UNSAFE_LEGACY_PICKLE", raising=False)


def source(signature: Signature) -> Source:
    session = Session(Path("log/run"), Path("s"), signature, "FactorRDLoop", ())
    return Source(SourceKind.LOG, Path("log/run"), None, session=session)


def test_verified_log() -> None:
    """What this machine's RD-Agent signed may be run again."""
    require_rebuildable(source(Signature.VERIFIED))


@pytest.mark.parametrize("signature", [Signature.UNSIGNED, Signature.KEY_NOT_HERE])
def test_unproven_log(signature: Signature, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other code is not run, unless the user says so with RD-Agent's own switch."""
    with pytest.raises(SourceError, match="rebuild-untrusted"):
        require_rebuildable(source(signature))
    monkeypatch.setenv("ALLOW_UNSAFE_LEGACY_PICKLE", "true")
    require_rebuildable(source(signature))


def test_all_obstacles_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proof and no data are told together."""
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError) as caught:
        require_rebuildable(source(Signature.UNSIGNED))
    assert [problem.slug for problem in caught.value.problems] == ["rebuild-untrusted", "no-market-data"]

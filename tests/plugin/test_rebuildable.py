"""A table is made again only from code that is vouched for, and with market data at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.factor_table.sources import Source
from rdagent_sota_patch.plugin import rebuildable
from rdagent_sota_patch.plugin.rebuildable import require_rebuildable
from rdagent_sota_patch.sessions.records import ExperimentKind, ExperimentRecord, Session, Signature
from rdagent_sota_patch.settings import SourceKind

NEWER = SimpleNamespace(signs_sessions=True, runs_feature_codes=True)
OLDER = SimpleNamespace(signs_sessions=False, runs_feature_codes=False)
UNKNOWN = SimpleNamespace(signs_sessions=None, runs_feature_codes=True)


@pytest.fixture(autouse=True)
def market_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path))
    monkeypatch.delenv("ALLOW_UNSAFE_LEGACY_PICKLE", raising=False)


@pytest.fixture
def run_in(mocker: MockerFixture) -> Callable[[Any], None]:
    """Have the RD-Agent of this Python give certain answers."""

    def run(traits: Any) -> None:
        mocker.patch.object(rebuildable, "installed_traits", return_value=traits)

    return run


def source(signature: Signature, log: Path = Path("elsewhere/run"), codes: tuple[str, ...] = ()) -> Source:
    experiment = ExperimentRecord(
        loop=0, kind=ExperimentKind.FACTOR, decision=True, base_feature_codes=dict.fromkeys(codes, "code")
    )
    session = Session(log, log / "__session__" / "0" / "3_feedback", signature, "FactorRDLoop", (experiment,))
    return Source(SourceKind.LOG, log, None, session=session, experiment=experiment)


@pytest.fixture
def own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log where the runs of this project keep theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOG_TRACE_PATH", raising=False)
    snapshot = tmp_path / "log" / "run" / "__session__" / "0" / "3_feedback"
    snapshot.parent.mkdir(parents=True)
    snapshot.touch()
    return tmp_path / "log" / "run"


def test_own_log_of_a_release_that_signs_nothing(own_log: Path, run_in: Callable[[Any], None]) -> None:
    """With 0.8.0 an unsigned log in the project's own folder may be run again; with 1.0.0, or where it is not known
    whether it signs, it is suspicious."""
    run_in(OLDER)
    require_rebuildable(source(Signature.UNSIGNED, own_log))
    for release in (NEWER, UNKNOWN):
        run_in(release)
        with pytest.raises(SourceError, match="rebuild-untrusted"):
            require_rebuildable(source(Signature.UNSIGNED, own_log))


@pytest.mark.parametrize("signature", [Signature.KEY_NOT_HERE, Signature.UNSIGNED])
def test_log_of_somebody_else_in_the_own_folder(
    signature: Signature, own_log: Path, run_in: Callable[[Any], None], mocker: MockerFixture
) -> None:
    """A signature that cannot be checked, or another owner, is not made good by the place."""
    run_in(OLDER)
    if signature is Signature.UNSIGNED:
        mocker.patch.object(rebuildable.os, "getuid", return_value=own_log.stat().st_uid + 1)
    with pytest.raises(SourceError, match="rebuild-untrusted"):
        require_rebuildable(source(signature, own_log))


def test_link_out_of_the_own_folder(own_log: Path, run_in: Callable[[Any], None], tmp_path: Path) -> None:
    """What counts is where a log really lies."""
    run_in(OLDER)
    moved = own_log.rename(tmp_path / "download")
    own_log.symlink_to(moved)
    with pytest.raises(SourceError, match="rebuild-untrusted"):
        require_rebuildable(source(Signature.UNSIGNED, own_log))


def test_feature_codes_need_the_newer_release(run_in: Callable[[Any], None]) -> None:
    """0.8.0 would leave base features as code out of the table, so it does not make it."""
    run_in(NEWER)
    require_rebuildable(source(Signature.VERIFIED, codes=("turnover.py",)))
    run_in(OLDER)
    with pytest.raises(SourceError, match=r"turnover\.py"):
        require_rebuildable(source(Signature.VERIFIED, codes=("turnover.py",)))


@pytest.mark.parametrize("release", [NEWER, OLDER])
def test_verified_log(release: Any, run_in: Callable[[Any], None]) -> None:
    """What this machine's RD-Agent signed may be run again."""
    run_in(release)
    require_rebuildable(source(Signature.VERIFIED))


@pytest.mark.parametrize("release", [NEWER, OLDER])
@pytest.mark.parametrize("signature", [Signature.UNSIGNED, Signature.KEY_NOT_HERE])
def test_unproven_log(
    signature: Signature, release: Any, monkeypatch: pytest.MonkeyPatch, run_in: Callable[[Any], None]
) -> None:
    """Other code is not run, unless the user says so with RD-Agent's own switch."""
    run_in(release)
    with pytest.raises(SourceError, match="rebuild-untrusted"):
        require_rebuildable(source(signature))
    monkeypatch.setenv("ALLOW_UNSAFE_LEGACY_PICKLE", "true")
    require_rebuildable(source(signature))


def test_all_obstacles_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_in: Callable[[Any], None]
) -> None:
    """No proof and no data are told together."""
    run_in(NEWER)
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError) as caught:
        require_rebuildable(source(Signature.UNSIGNED))
    assert [problem.slug for problem in caught.value.problems] == ["rebuild-untrusted", "no-market-data"]

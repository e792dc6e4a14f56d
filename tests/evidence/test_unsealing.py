"""Sealed days of a made bundle, opened: real factor code, Qlib, and a ledger."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rdagent_sota_patch.bundle.documents import CONFIG_NAME, MANIFEST_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.evidence.unsealing import Unsealed, UnsealOptions, unseal
from rdagent_sota_patch.scoring.recomputation import RecomputeOptions
from rdagent_sota_patch.sealing.opening_ledger import read_openings
from rdagent_sota_patch.sealing.seal_record import SEAL_NAME
from tests.bundle.made import FACTOR_CODE, edit_document, make_bundle, replace_file
from tests.scoring.made_market import MadeMarket, make_market
from tests.scoring.test_days_backtest import BACKTEST, STRATEGY
from tests.scoring.test_mined import verdict

SEALED_FROM = "2020-11-05"
METRICS = {"IC": 0.05, "1day.excess_return_with_cost.annualized_return": 0.1, "Rank IC": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    """A market that ends on 2020-11-13."""
    return make_market(tmp_path_factory.mktemp("market"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of a sealed run with the strategy of RD-Agent's templates."""
    folder = make_bundle(tmp_path / "bundle").folder
    strategy = {**STRATEGY, "kwargs": {"signal": "<PRED>", "topk": 10, "n_drop": 2}}
    record = {"class": "PortAnaRecord", "kwargs": {"config": {"strategy": strategy, "backtest": BACKTEST}}}
    edit_document(folder, CONFIG_NAME, lambda config: config.update(record=[record]))
    seal(folder, SEALED_FROM)
    return folder


def seal(folder: Path, day: str) -> None:
    """Write a bundle's seal."""
    held = {"schema_version": 1, "sealed_from": day, "metrics": METRICS}
    replace_file(folder, SEAL_NAME, json.dumps(held).encode())


def opened(folder: Path, made: MadeMarket, ledger: Path, report: Any = lambda *_: None) -> Unsealed:
    """Open the days."""
    return unseal(open_bundle(folder), made.files, UnsealOptions(ledger, RecomputeOptions(jobs=1)), report)


def test_what_is_told_is_what_is_recorded(folder: Path, made: MadeMarket, tmp_path: Path) -> None:
    """Days up to the last but one, and the figures that are known of the back-test; the second time is told."""
    ledger = tmp_path / "ledger.jsonl"
    first = opened(folder, made, ledger)
    assert read_openings(ledger) == (first.opening,)
    found = first.opening
    assert (found.sealed_from, found.first_day, found.last_day, found.days) == (
        SEALED_FROM,
        SEALED_FROM,
        "2020-11-12",
        6,
    )
    assert found.manifest_sha256 == hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()
    assert found.backtest == {"annualized_return": 0.1, "ic": 0.05}
    assert found.figures == first.figures.to_plain()
    assert len(first.report) == 6
    assert first.before == (0, 0)
    assert [notice.slug for notice in first.notices] == ["factors-not-audited"]
    second = opened(folder, made, ledger)
    assert second.before == (1, 1)
    assert second.notices[0].slug == "seal-opened-before"
    assert len(read_openings(ledger)) == 2


@pytest.mark.parametrize(("causal", "slug"), [(False, "factor-not-causal"), (None, "factor-not-judged")])
def test_a_factor_that_may_see_the_future_is_refused(
    folder: Path, made: MadeMarket, tmp_path: Path, causal: bool | None, slug: str
) -> None:
    """It would profit from all days at once; nothing is opened, and no option that is not there is named."""
    code = FACTOR_CODE.format(name="GapA", days=1)
    judged = {**verdict(code, lookback=None, causal=False), "causal": causal, "reason": "It fails: KeyError."}
    audit = {
        "schema_version": 2,
        "audited_at_utc": "2026-01-01T00:00:00+00:00",
        "data_start": "2020-01-01",
        "data_end": "2020-12-31",
        "cuts": [],
        "factors": [judged],
    }
    edit_document(folder, MANIFEST_NAME, lambda manifest: manifest.update(audit=audit))
    with pytest.raises(SotaError) as caught:
        opened(folder, made, tmp_path / "ledger.jsonl")
    assert [problem.slug for problem in caught.value.problems] == [slug]
    assert "--allow-lookahead" not in str(caught.value)
    assert not (tmp_path / "ledger.jsonl").exists()


def test_nothing_is_told_that_is_not_recorded(folder: Path, made: MadeMarket, tmp_path: Path) -> None:
    """A ledger that cannot be written when the figures are there."""
    ledger = tmp_path / "gone" / "ledger.jsonl"
    with pytest.raises(SotaError) as caught:
        opened(folder, made, ledger, lambda *_: ledger.mkdir(parents=True, exist_ok=True))
    assert caught.value.slug == "cannot-write"
    assert "sealed days" in str(caught.value).lower()


def test_a_ledger_that_cannot_be_read_is_told_before_any_work(
    folder: Path, made: MadeMarket, tmp_path: Path
) -> None:
    """Not after hours of scoring; and the command prints no figure."""
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("no opening\n")
    with pytest.raises(SotaError) as caught:
        opened(folder, made, ledger, lambda *_: pytest.fail("scored"))
    assert caught.value.slug == "ledger-unreadable"
    data = ("--data", str(made.files.data), "--qlib-dir", str(made.files.qlib_dir))
    told = CliRunner().invoke(app, ["evidence", str(folder), "--unseal", *data, "--ledger", str(ledger)])
    assert (told.exit_code, told.stdout) == (1, "")
    assert "[ledger-unreadable]" in told.stderr
    assert ledger.read_text() == "no opening\n"


@pytest.mark.parametrize("day", ["2020-11-12", "2020-11-13", "2021-01-04"])
def test_days_that_are_not_there_are_not_opened(
    folder: Path, made: MadeMarket, tmp_path: Path, day: str
) -> None:
    """Two have to be traded, with one more behind them."""
    seal(folder, day)
    with pytest.raises(SotaError) as caught:
        opened(folder, made, tmp_path / "ledger.jsonl")
    assert caught.value.slug == "sealed-days-missing"
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_bundle_without_a_seal_has_no_sealed_days(tmp_path: Path, made: MadeMarket) -> None:
    """Its run saw them all."""
    with pytest.raises(SotaError) as caught:
        opened(make_bundle(tmp_path / "open").folder, made, tmp_path / "ledger.jsonl")
    assert caught.value.slug == "bundle-not-sealed"


@pytest.mark.parametrize("text", [b"{}", b"[]", b"no json", b'{"sealed_from": "soon", "metrics": {}}'])
def test_a_seal_that_says_no_day_is_refused(
    folder: Path, made: MadeMarket, tmp_path: Path, text: bytes
) -> None:
    """No day is guessed."""
    replace_file(folder, SEAL_NAME, text)
    with pytest.raises(SotaError) as caught:
        opened(folder, made, tmp_path / "ledger.jsonl")
    assert caught.value.slug == "bundle-altered"


def test_one_bundle_is_chosen_before_the_look(folder: Path) -> None:
    """The best of several is no proof."""
    told = CliRunner().invoke(app, ["evidence", str(folder), str(folder), "--unseal"])
    assert told.exit_code == 1
    assert "[several-bundles]" in told.stderr

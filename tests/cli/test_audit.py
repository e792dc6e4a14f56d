"""`rdagent-sota audit`: what it prints and writes, and its exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from rdagent_sota_patch.bundle.documents import FACTORS_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli.audit import AuditRequest, run_audit
from rdagent_sota_patch.cli.output import reports_errors
from rdagent_sota_patch.lookahead.auditing import AuditOptions
from rdagent_sota_patch.lookahead.kept import read_kept_audit
from rdagent_sota_patch.lookahead.verdicts import read_verdicts
from tests.bundle.made import edit_document, make_bundle, replace_file
from tests.lookahead.factor_zoo import HONEST, LOOK_AHEAD, code_of, write_market


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test leaves verdicts with the user; and a terminal on which no row is broken."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "140")
    return tmp_path / "cache"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "daily_pv.h5"
    write_market(path, stocks=8, days=80)
    return path


def bundle_of(folder: Path, *bodies: str) -> tuple[Path, list[str]]:
    """A bundle of factors alone, with this code, and their names."""
    make_bundle(folder, factors_only=True)
    shipped = open_bundle(folder).factors.factors
    assert len(shipped) >= len(bodies)
    for factor, body in zip(shipped, bodies, strict=False):
        replace_file(folder, str(factor.code_relpath), code_of(body).encode())
    return folder, [factor.name for factor in shipped]


def audit(target: Path, data: Path, *, as_json: bool = False, **places: Any) -> int:
    """Its exit code."""
    request = AuditRequest(target, data, places.get("verdicts"), places.get("pictures"), AuditOptions(jobs=2))

    @reports_errors
    def command(as_json: bool) -> None:
        run_audit(request, as_json)

    try:
        command(as_json=as_json)
    except typer.Exit as ending:
        return ending.exit_code
    return 0


def test_a_factor_that_looks_ahead(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, a table, the reason, a picture, the verdicts in a file and in the cache."""
    folder, (ahead, honest) = bundle_of(tmp_path / "bundle", LOOK_AHEAD["NextClose"], HONEST["Momentum20"])
    assert audit(folder, data, verdicts=tmp_path / "audit.json", pictures=tmp_path / "pictures") == 1
    printed = capsys.readouterr().out
    assert f"✗ {ahead}: When the data ends on" in printed
    assert honest in printed
    (picture,) = (tmp_path / "pictures").glob("*.svg")
    assert picture.name == f"1_{ahead}.svg"
    assert str(picture) in printed
    verdicts = {verdict.name: verdict for verdict in read_verdicts(tmp_path / "audit.json").factors}
    assert not verdicts[ahead].causal
    assert verdicts[honest].causal
    kept = read_kept_audit({"Any": code_of(HONEST["Momentum20"])}, data)
    assert kept is not None
    assert kept.factors[0].lookback_days == verdicts[honest].lookback_days


def test_a_factor_that_fails_is_not_accused(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1, a third answer with its own error, and no picture."""
    folder, (fails, _) = bundle_of(tmp_path / "bundle", "factor = data['$vwap']", HONEST["RankByDay"])
    assert audit(folder, data, pictures=tmp_path / "pictures") == 1
    printed = capsys.readouterr().out
    assert f"? {fails}: It fails on the whole market data: KeyError: '$vwap'" in printed
    assert "not judged" in printed
    assert "✗" not in printed
    assert list((tmp_path / "pictures").iterdir()) == []


def test_json_is_exactly_what_is_documented(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 0 where every factor is causal."""
    folder, names = bundle_of(tmp_path / "bundle", HONEST["RankByDay"], HONEST["RankByDay"])
    assert audit(folder, data, as_json=True) == 0
    code = code_of(HONEST["RankByDay"])
    expected = {"causal": True, "changed_share": 0.0, "max_change": 0.0, "lookback_days": 1, "reason": ""}
    prices = ["$open", "$close", "$high", "$low", "$volume", "$factor"]
    reads = [{"name": "daily_pv.h5", "columns": [name for name in prices if name in code], "dated": True}]
    factors = [{"name": name, **expected, "reads": reads} for name in names]
    printed = json.loads(capsys.readouterr().out)
    powers = [factor.pop("power") for factor in printed["factors"]]
    assert printed == {"factors": factors, "notices": []}
    assert all(set(power) == {"cuts", "rows", "days_share", "rows_share"} for power in powers)


def test_what_yes_means_is_said(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which look ahead would have been found, in the words of the field."""
    folder, _ = bundle_of(tmp_path / "bundle", HONEST["RankByDay"], HONEST["RankByDay"])
    assert audit(folder, data) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"on \d+\.\d% of the days, or stock by stock in \d+\.\d\d% of the values, would have been found", said
    )
    assert "--thorough" in said


def test_a_factor_without_code_is_an_error(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not one that is passed over."""
    folder, names = bundle_of(tmp_path / "bundle")

    def lose(document: dict[str, Any]) -> None:
        document["factors"][0].update(code_relpath=None, missing_reason="it was never written")

    edit_document(folder, FACTORS_NAME, lose)
    assert audit(folder, data, as_json=True) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["slug"] == "factor-code-missing"
    assert names[0] in problem["message"]

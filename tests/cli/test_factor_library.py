"""``rdagent-sota library`` as people and programs use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_patch.factor_table.provenance import read_provenance
from rdagent_sota_patch.lookahead.kept import keep_audit
from rdagent_sota_patch.lookahead.verdicts import Audit, FactorVerdict, ReadTable
from tests.factor_library.made_library import add as add_made
from tests.scoring.made_market import MadeMarket, make_market

from .test_commands import environment_as_before, generated, log, run, sota_workspace
from .test_save import NAMES

__all__ = ["environment_as_before", "generated", "log"]
"""Fixtures."""


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    """Market data in a folder, as RD-Agent's factors read it."""
    return make_market(tmp_path_factory.mktemp("market"))


@pytest.fixture
def mined(log: Path, market: MadeMarket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log whose table has, for the market's days and stocks, one factor that knows the next return and two others."""
    close = market.market.frame()["$close"].unstack().astype(float)
    known = close.shift(-2) / close.shift(-1) - 1
    columns = {"Rev5": close.pct_change(5), "Gap3": known, "Mom60": close.pct_change(9)}
    frame = pd.concat({("feature", name): columns[name].stack() for name in NAMES}, axis=1).sort_index()
    frame.index.names = ["datetime", "instrument"]
    folder = sota_workspace(log, tmp_path, monkeypatch)
    folder.mkdir(parents=True)
    frame.dropna().to_parquet(folder / "combined_factors_df.parquet")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FACTOR_CoSTEER_DATA_FOLDER", raising=False)
    return log


def asked(*arguments: object) -> dict[str, Any]:
    """What a subcommand answers with ``--json``."""
    return dict(json.loads(run("library", *arguments, "--json").stdout))


def test_from_a_log_to_a_factor_file(mined: Path, market: MadeMarket, tmp_path: Path) -> None:
    """Add, list by figure, show, use; the default place is the user's data folder."""
    data = market.files.data
    added = run("library", "add", mined, "--data", data)
    assert added.exit_code == 0, added.stderr
    assert "run: 3 factors added, 0 updated, 0 there already" in added.stdout
    assert (tmp_path / "home" / ".local" / "share" / "rdagent-sota" / "library").is_dir()

    listed = asked("list", "--sort", "ic")
    assert listed["total"] == 3 and listed["factors"][0]["name"] == "Gap3"
    assert listed["factors"][0]["figures"]["ic_mean"] == pytest.approx(1)
    assert listed["factors"][0]["figures_from"] == str(data)
    assert [each["name"] for each in asked("list", "--search", "mOm")["factors"]] == ["Mom60"]
    assert asked("list", "--search", "run")["total"] == 3

    shown = run("library", "show", "Gap3")
    for text in (listed["factors"][0]["id"], "1.0000", "not audited", "run: loop 2, accepted in 2, as Gap3"):
        assert text in shown.stdout
    assert asked("show", "Gap3")["code"].strip().splitlines()[0] in shown.stdout

    target = tmp_path / "set.parquet"
    used = asked("use", "Gap3", listed["factors"][0]["id"][:8], "Rev5", "--out", target)
    assert used["names"] == ["Gap3", "Rev5"]
    provenance = read_provenance(target)
    assert provenance is not None and [each.task_id for each in provenance.factors] == ["run", "run"]


def test_without_market_data_it_says_why_there_are_no_figures(mined: Path, tmp_path: Path) -> None:
    """The factors are added all the same; figures come with market data."""
    added = run("library", "add", mined, "--library", tmp_path / "lib")
    assert added.exit_code == 0 and "No figures:" in added.stdout
    (first, *_) = asked("list", "--library", tmp_path / "lib")["factors"]
    assert first["figures"] is None and first["figures_from"].startswith("No figures:")


def test_an_audit_that_was_kept_comes_along(mined: Path, market: MadeMarket) -> None:
    """For the factor whose code it is about."""
    run("library", "add", mined)
    code = asked("show", "Rev5")["code_sha256"]
    verdict = FactorVerdict(
        name="Rev5",
        causal=False,
        changed_share=0.5,
        max_change=1.0,
        lookback_days=None,
        code_sha256=code,
        reads=(ReadTable(name="daily_pv.h5", dated=True),),
        reason="When the data ends on 2020-10-01, 3 values before it change.",
    )
    audit = Audit(
        audited_at_utc="2026-01-01T00:00:00Z",
        data_start="2020-01-01",
        data_end="2020-12-31",
        cuts=("2020-10-01",),
        factors=(verdict,),
    )
    data = market.files.data
    assert data is not None
    keep_audit(audit, data)
    run("library", "add", mined, "--data", data)
    assert {each["name"]: each["verdict"] for each in asked("list")["factors"]} == {
        "Rev5": "sees the future",
        "Gap3": "not audited",
        "Mom60": "not audited",
    }
    assert "sees the future" in run("library", "list").stdout


def test_code_of_a_stranger_is_shown_and_does_nothing(tmp_path: Path) -> None:
    """Controls, marks of direction and foreign line ends are escapes on the screen; nothing of it is run."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w')  # \x1b[2J \u202e evil \u2028 next\r\nx = [bold]\n"
    add_made(tmp_path, code=code)
    shown = run("library", "show", "A", "--library", tmp_path / "library")
    assert shown.exit_code == 0, shown.exception
    assert "\\x1b[2J \\u202e evil \\u2028 next" in " ".join(shown.stdout.split())
    assert "x = [bold]" in shown.stdout and "\x1b[2J" not in shown.stdout
    assert not (tmp_path / "ran").exists()


def test_what_is_damaged_is_said(tmp_path: Path) -> None:
    """The rest is listed; exit code 1."""
    add_made(tmp_path)
    library = tmp_path / "library"
    document = next(library.glob("*.json"))
    document.write_text("{")
    listed = run("library", "list", "--library", library)
    assert listed.exit_code == 1 and "1 of 1 factor in" in listed.stdout
    none = run("library", "list", "--search", "nothing like it", "--library", library)
    assert "None of 1 factor in" in none.stdout
    missing = run("library", "show", "C", "--library", library)
    assert "Documents that cannot be read: 1." in missing.stderr
    assert "library-damaged" in listed.stderr and document.name in listed.stderr


@pytest.mark.parametrize("arguments", [("list",), ("show", "A"), ("use", "A", "--out", "set.parquet")])
def test_no_library(log: Path, arguments: tuple[str, ...]) -> None:
    """What to do is said."""
    result = run("library", *arguments, "--library", "nowhere")
    assert result.exit_code == 1
    assert "library-not-found" in result.stderr and "rdagent-sota library add LOG" in result.stderr

"""The factors in force: found, checked and made ready once for all loops of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture

from rdagent_sota_patch import alpha_switch
from rdagent_sota_patch.errors import HostError, SourceError, TableError
from rdagent_sota_patch.factor_table.checks import Findings
from rdagent_sota_patch.factor_table.segments import Segments
from rdagent_sota_patch.factor_table.table import read_factor_table
from rdagent_sota_patch.host_source import HostSource
from rdagent_sota_patch.plugin import diagnosis as doctor
from rdagent_sota_patch.settings import Settings

SEGMENTS = Segments(
    *(date(2020, month, day) for month, days in ((1, (1, 18)), (1, (20, 28)), (2, (1, 28))) for day in days)
)


@pytest.fixture
def active(
    rdagent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> Iterator[Any]:
    """The module, with nothing settled yet and its folder in a temporary place."""
    from rdagent_sota_patch.plugin import active as module
    from rdagent_sota_patch.plugin import host

    mocker.patch.object(host, "workspace_root", return_value=tmp_path / "RD-Agent_workspace")
    mocker.patch.object(module, "check_market", return_value=Findings())
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    mocker.patch.object(module, "model_segments", return_value=SEGMENTS)
    monkeypatch.setenv("RDAGENT_SOTA_FINGERPRINT", "")
    monkeypatch.delenv("RDAGENT_SOTA_FINGERPRINT")
    module.active_sota.cache_clear()
    yield module
    module.active_sota.cache_clear()
    os.environ.pop("RDAGENT_SOTA_FINGERPRINT", None)


def settings_for(table: Path, **more: Any) -> Settings:
    return Settings(load_sota_factors=True, sota_factors_path=table, **more)


def test_table_as_rdagent_writes_it_is_used_in_place(active: Any, table: Path) -> None:
    """Such a table is copied from where it lies; nothing is converted."""
    sota = active.prepare_sota(settings_for(table))
    assert sota.table.path == table
    assert not (table.parent / "sota_tables").exists()


def test_other_layouts_are_converted_once(active: Any, table: Path, tmp_path: Path) -> None:
    """Plain columns, instruments first, unsorted: converted beside, the user's file only read."""
    frame = pd.read_parquet(table).swaplevel().sample(frac=1, random_state=1)
    frame.columns = frame.columns.get_level_values(1)
    mine = tmp_path / "mine.parquet"
    frame.to_parquet(mine)
    before = mine.read_bytes()
    sota = active.prepare_sota(settings_for(mine))
    assert sota.table.canonical
    assert sota.table.path.parent == tmp_path / "sota_tables"
    assert sota.table.fingerprint == read_factor_table(table).fingerprint
    written = sota.table.path.stat().st_mtime_ns
    assert active.prepare_sota(settings_for(mine)).table.path.stat().st_mtime_ns == written
    assert mine.read_bytes() == before


def test_other_dates_stop(active: Any, table: Path, mocker: MockerFixture) -> None:
    """A table without a day of the test segment is refused."""
    later = replace(SEGMENTS, test_start=date(2021, 1, 1), test_end=date(2021, 12, 31))
    mocker.patch.object(active, "model_segments", return_value=later)
    with pytest.raises(TableError, match="table-dates"):
        active.prepare_sota(settings_for(table))


def test_children_are_held_to_the_same_table(active: Any, table: Path) -> None:
    """A process that finds other factors than the run began with stops."""
    active.prepare_sota(settings_for(table))
    (pd.read_parquet(table) * 2).to_parquet(table)
    with pytest.raises(SourceError, match="source-changed"):
        active.prepare_sota(settings_for(table))


def test_settled_once(active: Any, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop gets the very same object."""
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "1")
    monkeypatch.setenv("SOTA_FACTORS_PATH", str(table))
    assert active.active_sota() is active.active_sota()


def test_lenient_failure_is_none_and_said(
    active: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
) -> None:
    """SOTA_STRICT off: a broken source is one warning, and no factors are in force."""
    monkeypatch.setenv("LOAD_SOTA_FACTORS", "1")
    monkeypatch.setenv("SOTA_FACTORS_PATH", str(tmp_path / "nothing.parquet"))
    with pytest.raises(SourceError, match="table-not-found"):
        active.active_sota()
    monkeypatch.setenv("SOTA_STRICT", "no")
    log = mocker.patch.object(active, "logger")
    assert active.active_sota() is None
    assert active.active_sota() is None
    (call,) = log.warning.call_args_list
    assert "SOTA factors file not found" in call.args[0]


def test_nothing_on_is_none(active: Any) -> None:
    """Without a LOAD_SOTA_* nothing is in force and nothing is looked at."""
    assert active.active_sota() is None


def test_store_that_cannot_be_made_is_an_error(active: Any, table: Path, tmp_path: Path) -> None:
    """A file where the folder belongs is told as such."""
    (tmp_path / "sota_tables").write_text("in the way", encoding="utf-8")
    frame = pd.read_parquet(table)
    frame.columns = frame.columns.get_level_values(1)
    frame.to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(HostError, match="cannot-write"):
        active.prepare_sota(settings_for(tmp_path / "plain.parquet"))


@pytest.mark.parametrize(
    ("text", "used", "left"),
    [(None, True, "true"), ("True", True, "true"), ("1", True, "true"), ("off", False, "false")],
)
def test_a_checkout_that_reads_the_switch_itself(
    text: str | None,
    used: bool,
    left: str,
    active: Any,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mocker: MockerFixture,
) -> None:
    """What the doctor announces, the run does, and RD-Agent's own code is told the same."""
    runner = tmp_path / "rdagent" / "scenarios" / "qlib" / "developer" / "model_runner.py"
    runner.parent.mkdir(parents=True)
    runner.write_text('use = os.getenv("USE_ALPHA_FACTORS", "true") == "true"\n', encoding="utf-8")
    mocker.patch.dict(os.environ)
    mocker.patch.object(alpha_switch, "find_host_if_any", return_value=HostSource(tmp_path / "rdagent"))
    if text is not None:
        monkeypatch.setenv("USE_ALPHA_FACTORS", text)
    announced = doctor.diagnose().settings
    assert announced is not None and announced.use_alpha_factors is used
    settings = settings_for(table)
    slugs = [notice.slug for notice in settings.notices()]
    assert slugs == {None: ["alpha-from-host"], "True": ["alpha-spelling"], "1": ["alpha-spelling"]}.get(
        text, []
    )
    assert active.prepare_sota(settings).use_alpha is used
    assert os.environ["USE_ALPHA_FACTORS"] == left

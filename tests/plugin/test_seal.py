"""What a sealed run's log says, and which factors it admits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.plugin import seal
from rdagent_sota_patch.plugin.seal import Seal, record_seal, require_sealed_source
from rdagent_sota_patch.sealing.seal_record import SealRecord, read_seal, write_seal
from rdagent_sota_patch.sealing.sealed_folder import SealedData

DAY = date(2020, 3, 2)
LATEST = date(2020, 2, 27)


@pytest.fixture
def in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seal]:
    """A seal, without anything of RD-Agent's changed."""
    copy = tmp_path / "sealed" / "2020-03-02-key"
    data = SealedData(copy, copy / "qlib", {Path("/q"): copy / "qlib" / "q"}, {Path("/d"): copy / "d"}, ())
    made = Seal(DAY, data, wall=True)
    monkeypatch.setattr(seal._InForce, "seal", made)
    yield made


def test_the_log_says_that_the_run_was_sealed(in_force: Seal, tmp_path: Path) -> None:
    """Once; a resumed run is held to it, also one without a seal."""
    log = tmp_path / "log"
    record_seal(log, asked=DAY, resumed=False)
    record = read_seal(log)
    assert record is not None
    assert (record.sealed_from, record.key, record.wall) == (DAY, "2020-03-02-key", True)
    record_seal(log, asked=DAY, resumed=True)
    assert read_seal(log) == record
    seal._InForce.seal = None
    with pytest.raises(SotaError, match="begun sealed from 2020-03-02 on") as caught:
        record_seal(log, asked=None, resumed=True)
    assert caught.value.slug == "seal-changed"


def test_a_run_that_was_begun_open_cannot_be_sealed(in_force: Seal, tmp_path: Path) -> None:
    """Its history knows the days."""
    with pytest.raises(SotaError, match="begun without a seal"):
        record_seal(tmp_path / "log", asked=DAY, resumed=True)


def test_nothing_is_written_without_a_seal(tmp_path: Path) -> None:
    """A log has no file more."""
    (tmp_path / "log").mkdir()
    record_seal(tmp_path / "log", asked=None, resumed=False)
    assert list((tmp_path / "log").iterdir()) == []


@pytest.mark.parametrize("sealed", [True, False])
def test_a_seal_that_was_set_after_the_loop_was_made_is_refused(
    sealed: bool, in_force: Seal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The loop has described other days to the LLM; nothing is recorded that is not so."""
    if not sealed:
        monkeypatch.setattr(seal._InForce, "seal", None)
    with pytest.raises(SotaError, match="is 2020-02-27, and this run's loop was made") as caught:
        record_seal(tmp_path / "log", asked=LATEST, resumed=False)
    assert caught.value.slug == "seal-changed"
    assert not (tmp_path / "log").exists()


def source(log: Path | None, *, gone: bool) -> Any:
    """A source of SOTA factors."""
    session = None if log is None else SimpleNamespace(log=log)
    return SimpleNamespace(path=log or Path("table"), table=None if gone else Path("table"), session=session)


def test_factors_that_were_chosen_by_sealed_days_are_refused(tmp_path: Path) -> None:
    """By the table's last day; where the table is gone, by what the log says of its run."""
    late, early = SimpleNamespace(end=DAY), SimpleNamespace(end=LATEST)
    require_sealed_source(source(tmp_path, gone=False), early, DAY)  # type: ignore[arg-type]
    with pytest.raises(SotaError, match="days up to 2020-03-02"):
        require_sealed_source(source(tmp_path, gone=False), late, DAY)  # type: ignore[arg-type]
    with pytest.raises(SotaError, match="its log does not say"):
        require_sealed_source(source(tmp_path, gone=True), None, DAY)
    record = SealRecord(sealed_from=DAY, key="k", wall=True, written_at=datetime.now(timezone.utc))
    write_seal(tmp_path, record)
    require_sealed_source(source(tmp_path, gone=True), None, DAY)
    with pytest.raises(SotaError, match="its log does not say"):
        require_sealed_source(source(tmp_path, gone=True), None, LATEST)

"""How large a run's workspaces are: measured within bounds, and nothing else on the machine is looked at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rdagent_sota_patch.results import disk_use
from rdagent_sota_patch.results.disk_use import list_workspaces
from rdagent_sota_patch.sessions.records import Session
from tests.export.made_run import make_run

HEX = "5a5ecb0e174e72a8e5f029f20bca9100"


def session_at(tmp_path: Path, *places: Path) -> Session:
    session = make_run(tmp_path / "project").session
    first = session.experiments[0]
    return replace(session, experiments=tuple(replace(first, workspace=place) for place in places))


def test_sizes_are_those_of_all_files(tmp_path: Path) -> None:
    """Links are not followed."""
    place = tmp_path / HEX
    (place / "mlruns").mkdir(parents=True)
    (place / "a").write_bytes(b"x" * 3_000_000)
    (place / "mlruns" / "b").write_bytes(b"x" * 1_000_000)
    (place / "up").symlink_to(tmp_path)
    found = list_workspaces(session_at(tmp_path, place), (), quick=True)
    assert found.ok
    assert [(each.name, each.size_mb) for each in found.workspaces] == [(HEX, 3.81)]
    assert found.total_size_mb == 3.81


def test_a_folder_of_another_name_is_not_looked_at(tmp_path: Path) -> None:
    """A forged session may name any folder of the machine."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "a").write_bytes(b"x")
    found = list_workspaces(session_at(tmp_path, tmp_path / "secrets", Path("/")), (), quick=False)
    assert not found.ok
    assert [each.size_mb for each in found.workspaces] == [None, None]


def test_looking_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long is said, and not given in part."""
    place = tmp_path / HEX
    place.mkdir()
    for number in range(30):
        (place / str(number)).write_bytes(b"x")
    budget = disk_use._Budget
    monkeypatch.setattr(disk_use, "_Budget", lambda entries, until: budget(20, until))
    (found,) = list_workspaces(session_at(tmp_path, place), (), quick=True).workspaces
    assert found.size_mb is None and "too many files" in str(found.size_mb_error)

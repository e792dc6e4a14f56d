"""Logs that RD-Agent's own classes wrote, once for all tests; and a machine without a signing key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .generated_log import KEY, PlannedLoop, generate_log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_key_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("ARTIFACT_SIGNING_KEY", "ARTIFACT_SIGNING_KEY_PATH", "LOG_TRACE_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def key_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)


@pytest.fixture(scope="session")
def real_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accepted, rejected, accepted with a factor that failed, then a model."""
    pytest.importorskip("rdagent")
    return generate_log(
        tmp_path_factory.mktemp("signed") / "log" / "run",
        [
            PlannedLoop(factors=("Rev5",)),
            PlannedLoop(factors=("Vol10",), accepted=False),
            PlannedLoop(factors=("Gap3", "Bad"), failed=("Bad",)),
            PlannedLoop(kind="model"),
        ],
    )


@pytest.fixture(scope="session")
def legacy_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, two loops long, as RD-Agent 0.8.0 pickles it."""
    pytest.importorskip("rdagent")
    return generate_log(
        tmp_path_factory.mktemp("plain") / "log" / "run",
        [PlannedLoop(factors=("Rev5",)), PlannedLoop(factors=("Vol10",), accepted=False)],
        legacy=True,
    )

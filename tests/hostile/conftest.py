"""A machine without a signing key, and a folder of its own to leave traces in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def no_key_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("ARTIFACT_SIGNING_KEY", "ARTIFACT_SIGNING_KEY_PATH"):
        monkeypatch.delenv(name, raising=False)

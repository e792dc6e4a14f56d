"""Which RD-Agent this Python would import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rdagent_sota_patch.host_source import find_host


def test_what_an_uninstalled_release_left_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RD-Agent is a namespace package: folders that `pip uninstall` leaves come first, and hold nothing of it."""
    left, checkout = tmp_path / "left", tmp_path / "checkout"
    (left / "rdagent" / "components" / "coder").mkdir(parents=True)
    runner = checkout / "rdagent" / "scenarios" / "qlib" / "developer" / "model_runner.py"
    runner.parent.mkdir(parents=True)
    runner.touch()
    monkeypatch.setattr(sys, "path", [str(left), str(checkout)])
    assert find_host().folder == checkout / "rdagent"

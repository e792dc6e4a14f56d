"""The tests that are marked ``proof``: too many cases for an ordinary run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.proof.hostile import run_tests
from tests.proof.report import Row, timed

if TYPE_CHECKING:
    from pathlib import Path


def measure(_: Path) -> list[Row]:
    """All of them, as one row."""
    return [timed(lambda: run_tests("tests marked proof", ("tests",), "zoo", "proof"))]

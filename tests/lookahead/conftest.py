"""One small market for all tests of the audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lookahead.factor_zoo import write_market


@pytest.fixture(scope="session")
def market_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``daily_pv.h5`` of 30 stocks and 300 days."""
    path = tmp_path_factory.mktemp("market") / "daily_pv.h5"
    write_market(path)
    return path

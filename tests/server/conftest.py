"""Runs of every kind, made once, and a server on them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.results.log_root import Project, make_project
from tests.sessions.generated_log import KEY

from .served import Served, serving

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Runs of every kind; not to be changed."""
    return make_project(tmp_path_factory.mktemp("served") / "project")


@pytest.fixture(scope="session")
def served(project: Project) -> Iterator[Served]:
    """The application on these runs, in a process of its own."""
    with serving(project.log, key=KEY) as server:
        yield server


@pytest.fixture(scope="session")
def bundles_made(served: Served) -> None:
    """What keys may be files of, and the factors' figures, so that no request waits for them."""
    assert served.get("/tasks/accepted/bundle").status == 200
    assert served.get("/tasks/accepted/factor_order").status == 200
    assert served.get("/api/extractors/sota_factors/v2/accepted/factor_metrics").status == 200


@pytest.fixture
def nothing_left_open(served: Served) -> Iterator[None]:
    """After the test the server holds no more files than before, and answers."""
    assert served.get("/tasks/accepted").status == 200
    # The process that reads the list is kept.
    assert served.get("/tasks").status == 200
    before = _settle(served, served.open_files())
    yield
    assert _settle(served, before) <= before
    assert served.get("/health").status == 200


def _settle(served: Served, wanted: int) -> int:
    """How many files it holds, once connections that were closed are gone."""
    end = time.monotonic() + 5
    while served.open_files() > wanted and time.monotonic() < end:
        time.sleep(0.01)
    return served.open_files()

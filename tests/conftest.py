"""Settings of the whole suite: garbage, the queue of several processes, and Hypothesis.

Hypothesis has no deadline, since machines are shared; where a change is judged, it takes the same examples each time.
"""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop(
        "COLUMNS", None
    )  # Set by pytest-xdist; where output is no terminal, a table is as wide as needed.

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests stay until the end: garbage is not looked for among them each time."""
    if hasattr(session.config, "workerinput") and not all("@" in item.nodeid for item in session.items):
        raise pytest.UsageError("This pytest-xdist does not group tests here: real runs would be made twice.")
    gc.collect()
    gc.freeze()


# What takes longest is begun first, so that no process is left with it alone at the end.
_FIRST = ("tests/integration", "tests/lookahead/test_zoo.py", "tests/export/test_proving.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes (``pytest -n``): each takes a module at a time, and one of them all real runs, once."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        module = item.nodeid.partition("::")[0]
        # All of them: a fixture begins every run that some collected test will ask for.
        group = _FIRST[0] if module.startswith(_FIRST[0]) else module
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(
        key=lambda item: next((at for at, start in enumerate(_FIRST) if item.nodeid.startswith(start)), 99)
    )

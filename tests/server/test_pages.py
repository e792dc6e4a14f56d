"""The pages as they are served: the list sorted and compared, a back-test drawn by a process that can be ended."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.server.rendering import CONTENT_SECURITY_POLICY, LIST_POLICY
from tests.mlruns.forged_recorder import write_backtest
from tests.results.log_root import make_project
from tests.sessions.generated_log import KEY

from .served import Answer, Served, serving


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of runs of every kind; the back-test of ``accepted`` left its days."""
    project = make_project(tmp_path_factory.mktemp("pages"))
    days = pd.bdate_range("2020-01-01", periods=40, name="datetime")
    returns = np.linspace(-0.01, 0.02, 40)
    report = pd.DataFrame({"return": returns, "turnover": 0.1, "cost": 0.0002, "bench": 0.001}, index=days)
    ic = pd.Series(np.linspace(-0.1, 0.2, 40), index=days)
    write_backtest(project.weights.parents[1], report, ic, ic / 2)
    with serving(project.log, key=KEY) as server:
        yield server


def ask(server: Served, path: str) -> Answer:
    return server.get(path, Accept="text/html")


def test_the_list_sorts(pages: Served) -> None:
    """Best first, what has no value last; only the list's policy lets a form ask this server."""
    answer = ask(pages, "/?sort=factors")
    text = answer.body.decode()
    assert answer.headers["content-security-policy"] == LIST_POLICY
    assert text.index(">accepted<") < text.index(">embedded<")
    assert ask(pages, "/?sort=nothing").status == 422
    assert ask(pages, "/compare").headers["content-security-policy"] == CONTENT_SECURITY_POLICY


def test_runs_side_by_side(pages: Served) -> None:
    """Also one that cannot be read; one that is not there is an error."""
    answer = ask(pages, "/compare?run=accepted&run=model&run=torn&run=accepted")
    text = answer.body.decode()
    assert answer.status == 200
    assert text.count("/runs/accepted") == 1
    assert "None of the 1 snapshots" in text
    assert ask(pages, "/compare?run=nowhere").status == 404
    assert ask(pages, "/compare?" + "run=a&" * 21).status == 422


def test_a_back_test_is_drawn(pages: Served) -> None:
    """Of the SOTA's loop, or the one that is asked for; without a workspace the page says why there is none."""
    drawn = ask(pages, "/runs/accepted").body.decode()
    assert "Back-test by day, loop 2" in drawn
    assert drawn.count('class="curve ') == 15
    assert ask(pages, "/runs/accepted").body.decode() == drawn
    missing = ask(pages, "/runs/accepted?loop=1").body.decode()
    assert "Back-test by day, loop 1" in missing and "is not on this machine" in missing
    assert ask(pages, "/runs/accepted?loop=99").status == 404


def test_a_workspace_is_not_looked_for_anywhere(pages: Served) -> None:
    """A log may name any folder; only those called as RD-Agent calls workspaces are looked into."""
    assert "/nowhere/at/all is not on this machine" in ask(pages, "/runs/gone").body.decode()

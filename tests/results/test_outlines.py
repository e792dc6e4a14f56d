"""Runs as rows: many logs read together, none of which stops the others, and put in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdagent_sota_patch.results import outlines, reader
from rdagent_sota_patch.results.outlines import ORDERS, Outlines, sort_runs
from rdagent_sota_patch.results.schemas import Best, TaskItem
from rdagent_sota_patch.results.service import Folders, Service
from rdagent_sota_patch.results.tasks import TaskFolder
from tests.results.log_root import Project, make_project, run_of_factors, with_attributes, write_run
from tests.results.test_reader import bad_log
from tests.sessions.forged import Made
from tests.sessions.generated_log import KEY

SOURCE = {"kind": "log", "path": "/log/mined", "task_id": "mined", "loop": 2}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)


@pytest.fixture
def made() -> Iterator[Outlines]:
    rows = Outlines()
    yield rows
    rows.close()


def read(rows: Outlines, root: Path) -> dict[str, TaskItem]:
    return {item.task_id: item for item in rows.read(TaskFolder(root).list())}


def test_rows_of_runs_of_every_kind(tmp_path: Path, made: Outlines) -> None:
    """Each with what its own loops reached; what cannot be read says why, and the rest is there all the same."""
    root = make_project(tmp_path).log
    rows = read(made, root)
    mined = rows["accepted"]
    assert (mined.kind, mined.loops, mined.accepted, mined.sota_loop, mined.sota_factors) == (
        "factor", 3, 2, 2, 3,
    )  # fmt: skip
    assert mined.best[0] == Best(metric="IC", value=0.0125, loop=2)
    assert (rows["model"].kind, rows["model"].accepted, rows["model"].has_sota) == ("model", 1, False)
    assert (rows["inheriting"].loops, rows["inheriting"].accepted, rows["inheriting"].best) == (1, 0, ())
    slugs = {name: rows[name].problem.slug for name in ("torn", "altered", "foreign", "nosnapshots")}  # type: ignore[union-attr]
    assert slugs == {
        "torn": "no-readable-snapshot", "altered": "snapshot-altered", "foreign": "no-readable-snapshot",
        "nosnapshots": "no-snapshots",
    }  # fmt: skip


def test_the_server_and_the_summary_have_the_same_figures(tmp_path: Path, made: Outlines) -> None:
    """The list, sorted or not, a run's summary and these rows come from one function."""
    project = make_project(tmp_path)

    async def ask() -> None:
        service = Service(Folders(project.log, tmp_path / "cache"))
        try:
            rows = read(made, project.log)
            for order in (None, "ic"):
                listed = await service.list_tasks(100, 0, None, order)  # type: ignore[arg-type]
                assert {item.task_id: item for item in listed.tasks} == rows
            for name in ("accepted", "model", "embedded"):
                summary = (await service.find(name)).summary
                row = rows[name]
                assert (summary.best, summary.accepted, summary.kind) == (row.best, row.accepted, row.kind)
        finally:
            await service.close()

    asyncio.run(ask())


def test_a_slow_log_comes_after_the_others_and_is_given_up(
    tmp_path: Path, made: Outlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ones that can be read have their rows; a process that ends without a result is an answer, too."""
    monkeypatch.setattr(reader, "_SOON", 0.15)
    monkeypatch.setattr(reader, "_LONGEST_OUTLINE", 0.3)
    for name in ("a", "c", "d"):
        write_run(tmp_path / name, [(run_of_factors("ZMom"), True)])
    bad_log(tmp_path / "b")
    rows = read(made, tmp_path)
    assert {name for name, row in rows.items() if row.problem is None} >= {"a", "c", "d"} - {"b"}
    assert rows["b"].problem is not None
    assert rows["b"].problem.slug in ("reading-took-too-long", "snapshot-too-large")


def test_rows_are_kept_while_logs_are_as_they_were(
    tmp_path: Path, made: Outlines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a log that has changed is read again."""
    asked: list[str] = []
    outline = reader.Reader.outline

    def counting(self: reader.Reader, logs: list[Path]) -> object:
        asked.extend(log.name for log in logs)
        return outline(self, logs)

    monkeypatch.setattr(reader.Reader, "outline", counting)
    for name in ("a", "b"):
        write_run(tmp_path / name, [(run_of_factors("ZMom"), True)])
    before = read(made, tmp_path)
    # A reading is good for some times as long as it took.
    time.sleep(outlines._GOOD_FOR + 1)
    write_run(tmp_path / "b", [(run_of_factors("ZMom"), True), (run_of_factors("GapA"), True)])
    after = read(made, tmp_path)
    assert sorted(asked) == ["a", "b", "b"]
    assert (before["b"].loops, after["b"].loops, after["a"]) == (1, 2, before["a"])


def test_where_a_models_factors_come_from(tmp_path: Path, made: Outlines) -> None:
    """The run and how many, from what the plugin recorded; junk in its place is not a source."""
    factors = [{"name": "A", "loop": 0}, {"name": "B", "loop": 10**3}]
    records: dict[str, object] = {
        "model": {"source": SOURCE, "factors": factors},
        "file": {"source": {"kind": "file", "path": "/a.parquet", "task_id": None}, "factors": factors},
        "junk": {"source": "mined", "factors": 3},
        "half": {"source": {"kind": 3, "path": [], "task_id": {}}, "factors": [None, {"name": 5}]},
    }
    for name, record in records.items():
        experiment: Made = with_attributes(run_of_factors("ZMom"), sota_source=record)
        write_run(tmp_path / name, [(experiment, False)])
    rows = read(made, tmp_path)
    assert {name: (row.given_from, row.given_factors) for name, row in rows.items()} == {
        "model": ("mined", 2), "file": ("/a.parquet", 2), "junk": (None, None), "half": ("", 1),
    }  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_order(order: str) -> None:
    """Best first, missing and unreadable last in both directions, equals as they were."""
    base = {"updated_at_utc": "2026-01-01", "has_sota": False, "problem": None}
    runs = [
        TaskItem(
            task_id=name, kind="model", loops=number, accepted=number, sota_factors=number, **base,
            ended_at_utc=f"2026-01-0{number}", best=[Best(metric=metric, value=number, loop=0) for metric in
            ("IC", "1day.excess_return_with_cost.annualized_return")],
        )
        for name, number in (("b", 2), ("a", 3), ("c", 1))
    ]  # fmt: skip
    broken = TaskItem(
        task_id="x", kind=None, loops=0, **{**base, "problem": {"slug": "s", "message": "", "hint": ""}}
    )
    names = "".join(run.task_id for run in sort_runs([broken, *runs], order))  # type: ignore[arg-type]
    back = "".join(run.task_id for run in sort_runs([broken, *runs], order, reverse=True))  # type: ignore[arg-type]
    expected = {"name": ("abcx", "cbax"), "kind": ("bacx", "bacx")}.get(order, ("abcx", "cbax"))
    assert (names, back) == expected


def test_a_project_without_runs(tmp_path: Path, made: Outlines) -> None:
    """No row, and nothing is started."""
    (tmp_path / "log").mkdir()
    assert read(made, Project(tmp_path).log) == {}

"""`latest` is the same run on the command line and on the server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.results.service import Folders, Service
from rdagent_sota_patch.sessions.logs import find_log, list_runs
from tests.sessions.forged import factor_experiment, feedback, model_experiment, put, saved_loop

ACCEPTED = saved_loop((factor_experiment("A"), feedback(True)))
REJECTED = saved_loop((factor_experiment("A"), feedback(False)))
MODEL = saved_loop((model_experiment(), feedback(True)))
INHERITED = saved_loop(
    (factor_experiment("A", inherited_from={"task_id": "other", "loop": 1}), feedback(True)),
    idx2loop_id={0: -1},
)
UNREADABLE = b"no pickle"


def make_log(root: Path, name: str, content: object, written: int, loop: int = 0) -> None:
    path = put(root / name, loop, "4_record", content)  # type: ignore[arg-type]
    os.utime(path, (written, written))


def on_the_server(root: Path, cache: Path) -> str:
    async def ask() -> str:
        service = Service(Folders(root, cache))
        try:
            return (await service.find("latest")).session.task_id
        finally:
            await service.close()

    try:
        return asyncio.run(ask())
    except SotaError as error:
        return error.slug


def on_the_command_line(root: Path) -> str:
    try:
        return find_log("latest", [root]).task_id
    except SotaError as error:
        return error.slug


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        ([("a", ACCEPTED, 1), ("b", ACCEPTED, 2)], "b"),
        ([("a", ACCEPTED, 2), ("b", ACCEPTED, 1)], "a"),
        ([("b", ACCEPTED, 1), ("a", ACCEPTED, 1)], "a"),
        ([("a", ACCEPTED, 1), ("b", REJECTED, 2), ("c", MODEL, 3), ("d", UNREADABLE, 4)], "a"),
        ([("a", ACCEPTED, 1), ("b", INHERITED, 2)], "a"),
        ([("a", INHERITED, 1), ("b", REJECTED, 2)], "no-accepted-run"),
        ([("a", ACCEPTED, 1), (".hidden", ACCEPTED, 2)], ".hidden"),
    ],
)
def test_latest(tmp_path: Path, logs: list[tuple[str, object, int]], expected: str) -> None:
    """The one that was written last of those that accepted factors of their own."""
    root = tmp_path / "log"
    for name, content, written in logs:
        make_log(root, name, content, written)
    (root / "no log").mkdir()
    (root / "file").touch()
    (root / "circle").symlink_to("circle")
    assert on_the_command_line(root) == expected
    assert on_the_server(root, tmp_path / "cache") == expected


def test_the_newest_of_many_snapshots_counts(tmp_path: Path) -> None:
    """Each step of the newest loops is looked at, however many there are; older loops are not."""
    root = tmp_path / "log"
    for step in range(9):
        path = put(root / "a", 5, f"{step}_step", ACCEPTED)
        os.utime(path, (10 + (step == 0), 10 + (step == 0)))
    make_log(root, "b", ACCEPTED, 10, loop=7)
    make_log(root, "b", ACCEPTED, 99, loop=1)
    for loop in (5, 6):
        make_log(root, "b", ACCEPTED, 10, loop=loop)
    assert [run.log.name for run in list_runs(root)] == ["a", "b"]
    assert on_the_command_line(root) == on_the_server(root, tmp_path / "cache") == "a"

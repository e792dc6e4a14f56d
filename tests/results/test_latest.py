"""`latest` is the same run on the command line, on the server, and for a model stage."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_patch.cli import app
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.sources import find_source
from rdagent_sota_patch.results.service import Folders, Service
from rdagent_sota_patch.sessions.logs import find_log, list_runs
from rdagent_sota_patch.settings import Settings
from tests.sessions.forged import factor_experiment, feedback, model_experiment, put, saved_loop
from tests.sessions.generated_log import KEY

ACCEPTED = saved_loop((factor_experiment("A"), feedback(True)))
REJECTED = saved_loop((factor_experiment("A"), feedback(False)))
MODEL = saved_loop((model_experiment(), feedback(True)))
INHERITED = saved_loop(
    (factor_experiment("A", inherited_from={"task_id": "other", "loop": 1}), feedback(True)),
    idx2loop_id={0: -1},
)
UNREADABLE = b"no pickle"
ALTERED = b"RDAGENT_SIGNED_PICKLE_V1\n" + bytes(32) + pickle.dumps({"not": "signed with our key"})


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


def for_a_person() -> str:
    answer = json.loads(CliRunner().invoke(app, ["inspect", "latest", "--json"]).stdout)
    return str(answer["task_id"] if "task_id" in answer else answer["problems"][0]["slug"])


def for_a_model_stage() -> str:
    """As `doctor` and a run look for it."""
    try:
        source = find_source(Settings(load_sota_from_log=True, sota_log_path=Path("latest")))
    except SotaError as error:
        return error.slug
    assert source is not None and source.session is not None
    return source.session.task_id


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
        ([("a", ACCEPTED, 1), ("b", ALTERED, 2)], "snapshot-altered"),
        ([("a", ACCEPTED, 2), ("b", ALTERED, 1)], "a"),
        ([("a", ACCEPTED, 1), ("latest", ACCEPTED, 2)], "latest"),
    ],
)
def test_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: list[tuple[str, object, int]], expected: str
) -> None:
    """The one that was written last of those that accepted factors of their own."""
    for name in (*Settings.model_fields, "log_trace_path"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "log"
    for name, content, written in logs:
        make_log(root, name, content, written)
    (root / "no log").mkdir()
    (root / "file").touch()
    (root / "circle").symlink_to("circle")
    assert on_the_command_line(root) == expected
    assert on_the_server(root, tmp_path / "cache") == expected
    assert for_a_person() == expected
    assert for_a_model_stage() == expected


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

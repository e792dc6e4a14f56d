"""Runs as they are served: read once for all who ask, and again when, and only when, their log has changed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import ApiError, SotaError
from rdagent_sota_patch.results import views
from rdagent_sota_patch.results.reader import Reader
from rdagent_sota_patch.results.sota import Spool
from rdagent_sota_patch.results.tasks import Task, TaskFolder
from rdagent_sota_patch.results.views import RunView, Views
from rdagent_sota_patch.sessions.records import Session
from tests.results.log_root import EMBEDDED, run_of_factors, with_weights, write_run
from tests.sessions.generated_log import KEY

PAUSE = 3 * views._GOOD_FOR


class Counting:
    """`Reader.read`, with a count of the logs it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.logs: list[str] = []
        read = Reader.read

        def counting(reader: Reader, log: Path) -> Session:
            self.logs.append(log.name)
            return read(reader, log)

        monkeypatch.setattr(Reader, "read", counting)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    return Counting(monkeypatch)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "log"
    write_run(folder / "mined", [(run_of_factors("ZMom"), True)])
    return folder


def served(root: Path) -> tuple[TaskFolder, Views]:
    spool = root.parent / "spool"
    spool.mkdir(exist_ok=True)
    return TaskFolder(root), Views((), Spool(spool, 1 << 20))


async def get(tasks: TaskFolder, runs: Views, task_id: str = "mined") -> RunView:
    return await runs.get(tasks.find(task_id))


def test_many_who_ask_at_once_wait_for_one_reading(root: Path, reads: Counting) -> None:
    """And while nothing changes, nobody reads it again."""

    async def ask() -> None:
        tasks, runs = served(root)
        found = await asyncio.gather(*(get(tasks, runs) for _ in range(50)))
        assert len(set(map(id, found))) == 1
        await asyncio.sleep(PAUSE)
        assert await get(tasks, runs) is found[0]

    asyncio.run(ask())
    assert reads.logs == ["mined"]


def test_a_new_loop_moves_the_answer_on(root: Path, reads: Counting) -> None:
    """The anchor is that of the loop that was accepted last."""

    async def ask() -> None:
        tasks, runs = served(root)
        assert (await get(tasks, runs)).anchor.last_sota_factor_index == 0
        write_run(root / "mined", [(run_of_factors("ZMom"), True), (run_of_factors("GapA"), True)])
        await asyncio.sleep(PAUSE)
        view = await get(tasks, runs)
        assert (view.anchor.hist_len, view.anchor.last_sota_factor_index) == (2, 1)
        assert view.codes["factor.py"] != ""

    asyncio.run(ask())


def test_a_snapshot_that_is_half_written_is_passed_over(root: Path, reads: Counting) -> None:
    """Until it is whole, the one before it speaks for the run."""

    async def ask() -> None:
        tasks, runs = served(root)
        await get(tasks, runs)
        write_run(root / "mined", [(run_of_factors("ZMom"), True), (run_of_factors("GapA"), True)])
        newest = root / "mined" / "__session__" / "1" / "4_record"
        whole = newest.read_bytes()
        newest.write_bytes(whole[: len(whole) // 2])
        await asyncio.sleep(PAUSE)
        view = await get(tasks, runs)
        assert (view.anchor.hist_len, view.summary.skipped_snapshots) == (1, 1)
        newest.write_bytes(whole)
        await asyncio.sleep(PAUSE)
        assert (await get(tasks, runs)).anchor.hist_len == 2

    asyncio.run(ask())


def test_folders_that_are_no_loops_do_not_hide_the_newest(root: Path, reads: Counting) -> None:
    """Such as numbers too long for a loop: a snapshot that becomes whole beside them is noticed."""
    write_run(root / "mined", [(run_of_factors("ZMom"), True), (run_of_factors("GapA"), True)])
    newest = root / "mined" / "__session__" / "1" / "4_record"
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    for digits in (10, 11, 200):
        (newest.parents[1] / ("9" * digits)).mkdir()

    async def ask() -> None:
        tasks, runs = served(root)
        view = await get(tasks, runs)
        assert (view.anchor.hist_len, view.updated) == (1, pytest.approx(newest.stat().st_mtime))
        newest.write_bytes(whole)
        await asyncio.sleep(PAUSE)
        assert (await get(tasks, runs)).anchor.hist_len == 2

    asyncio.run(ask())


def test_a_run_that_cannot_be_looked_at_is_listed(root: Path) -> None:
    """What is wrong with it is told by reading it; a run does not just vanish."""
    (root / "broken").mkdir()
    (root / "broken" / "__session__").symlink_to("__session__")
    tasks, runs = served(root)
    assert [task.task_id for task in tasks.list()] == ["mined", "broken"]
    with pytest.raises(SotaError) as caught:
        asyncio.run(get(tasks, runs, "broken"))
    assert caught.value.slug == "log-unreadable"


def test_what_cannot_be_read_is_tried_again(root: Path, reads: Counting) -> None:
    """The cause may lie outside of the log, such as a key that was not there."""

    async def ask(monkeypatch: pytest.MonkeyPatch) -> None:
        tasks, runs = served(root)
        monkeypatch.setenv("ARTIFACT_SIGNING_KEY", "another key of more than thirty-two bytes")
        with pytest.raises(SotaError) as caught:
            await get(tasks, runs)
        assert caught.value.slug == "snapshot-altered"
        monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
        await asyncio.sleep(PAUSE)
        assert (await get(tasks, runs)).manifest.signature == "verified"

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(ask(patch))


def test_a_workspace_that_comes_back_is_noticed(tmp_path: Path, reads: Counting) -> None:
    """Though no snapshot changes."""
    place, moved = tmp_path / "workspace", tmp_path / "moved"
    recorder = moved / "mlruns" / "1" / "a"
    (recorder / "artifacts").mkdir(parents=True)
    (recorder / "artifacts" / "params.pkl").write_bytes(b"weights")
    (recorder / "meta.yaml").write_text(
        "experiment_id: '1'\nrun_id: a\nstatus: 3\nend_time: 1795247850796\nlifecycle_stage: active\n"
    )
    write_run(tmp_path / "log" / "mined", [(run_of_factors("ZMom", place=place), True)])

    async def ask() -> None:
        tasks, runs = served(tmp_path / "log")
        assert (await get(tasks, runs)).anchor.resolved_model_weight_key is None
        moved.rename(place)
        await asyncio.sleep(PAUSE)
        assert (await get(tasks, runs)).anchor.resolved_model_weight_key == "model.pkl"
        (place / "mlruns" / "1" / "a" / "artifacts" / "params.pkl").write_bytes(b"others")
        await asyncio.sleep(PAUSE)
        view = await get(tasks, runs)
        assert view.find_asset("model.pkl").size == len(b"others")  # type: ignore[union-attr]

    asyncio.run(ask())


def test_a_log_that_is_removed_is_gone(root: Path, reads: Counting) -> None:
    """What was read of it is not handed out any longer."""

    async def ask() -> None:
        tasks, runs = served(root)
        await get(tasks, runs)
        (root / "mined").rename(root.parent / "elsewhere")
        await asyncio.sleep(PAUSE)
        with pytest.raises(SotaError) as caught:
            await runs.get(Task("mined", root / "mined"))
        assert caught.value.slug == "log-not-found"

    asyncio.run(ask())


def test_weights_of_the_session_become_a_file(tmp_path: Path, reads: Counting) -> None:
    """They are handed out from there, and no run keeps them in memory."""
    write_run(tmp_path / "log" / "mined", [(with_weights(run_of_factors("ZMom"), EMBEDDED), True)])

    async def ask() -> None:
        tasks, runs = served(tmp_path / "log")
        view = await get(tasks, runs)
        for key in ("model.pkl", "params.pkl"):
            asset = view.find_asset(key)
            assert asset is not None and asset.path is not None and asset.content is None
            assert (asset.key, asset.path.read_bytes()) == (key, EMBEDDED)
        assert view.session.experiments[0].embedded_weights is None

    asyncio.run(ask())


def test_only_so_many_runs_are_kept(tmp_path: Path, reads: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that nobody asked for the longest goes, and is read again when somebody does."""
    monkeypatch.setattr(views, "_KEPT", 2)
    names = ("a", "b", "c")
    for name in names:
        write_run(tmp_path / "log" / name, [(run_of_factors("ZMom"), True)])

    async def ask() -> None:
        tasks, runs = served(tmp_path / "log")
        for name in (*names, "c", "a"):
            await get(tasks, runs, name)

    asyncio.run(ask())
    assert reads.logs == ["a", "b", "c", "a"]


def test_a_run_is_looked_up_and_never_a_path(root: Path) -> None:
    """An id that leads out of the root, though there is a run, is not found."""
    write_run(root.parent / "outside", [(run_of_factors("ZMom"), True)])
    tasks = TaskFolder(root)
    assert [task.task_id for task in tasks.list()] == ["mined"]
    for task_id in ("../outside", "../log/mined", str(root / "mined"), "mined/", "./mined", "", "\0"):
        with pytest.raises(ApiError) as caught:
            tasks.find(task_id)
        assert caught.value.slug == "task-not-found"


def test_a_new_run_is_found_at_once(root: Path) -> None:
    """A client that knows an id before the last listing did is not sent away for long."""
    tasks = TaskFolder(root)
    tasks.list()
    write_run(root / "second", [(run_of_factors("ZMom"), True)])

    async def ask() -> None:
        await asyncio.sleep(0.1)
        assert tasks.find("second").log == root / "second"

    asyncio.run(ask())

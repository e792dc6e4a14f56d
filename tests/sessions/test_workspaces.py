from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest

from rdagent_sota_patch.sessions.workspaces import find_workspace, workspace_candidates

LOG = Path("/project/log/run")
MINE = Path("/project/git_ignore_folder/RD-Agent_workspace/abc")


def test_order() -> None:
    """Recorded path, the log's own project, then each root in both layouts."""
    assert workspace_candidates(PurePosixPath("/old/ws/abc"), LOG, [Path("/r1"), Path("/r2")]) == (
        Path("/old/ws/abc"),
        MINE,
        Path("/r1/abc"),
        Path("/r1/git_ignore_folder/RD-Agent_workspace/abc"),
        Path("/r2/abc"),
        Path("/r2/git_ignore_folder/RD-Agent_workspace/abc"),
    )


@pytest.mark.parametrize(
    "recorded", [PureWindowsPath("F:\\rd agent\\ws\\abc"), PureWindowsPath("f:/rd agent/ws/abc")]
)
def test_windows_path_under_wsl(recorded: PureWindowsPath) -> None:
    """A drive is a mount under WSL; its letter is lower case there."""
    assert Path("/mnt/f/rd agent/ws/abc") in workspace_candidates(recorded, LOG, [])
    assert MINE in workspace_candidates(recorded, LOG, [])


def test_windows_path_kept_as_text() -> None:
    """A Windows path that became one POSIX name is still understood."""
    candidates = workspace_candidates(PurePosixPath("F:\\ws\\abc"), LOG, [])
    assert Path("/mnt/f/ws/abc") in candidates and MINE in candidates


def test_wsl_path_under_windows() -> None:
    """A mount is a drive under Windows."""
    assert Path("F:/ws/abc") in workspace_candidates(PurePosixPath("/mnt/f/ws/abc"), LOG, [])


def test_no_place_twice() -> None:
    """Roots that repeat the project add nothing."""
    candidates = workspace_candidates(PurePosixPath(MINE), LOG, [Path("/project"), MINE.parent])
    assert len(candidates) == len(set(candidates))
    assert candidates[0] == MINE


def test_a_mount_that_is_no_drive() -> None:
    """/mnt/data is a folder like any other."""
    assert workspace_candidates(PurePosixPath("/mnt/data/abc"), LOG, [])[1] == MINE


def test_a_moved_workspace_is_found(tmp_path: Path) -> None:
    """The first place that holds the file wins; the places tried end with it."""
    root = tmp_path / "因子 空间"
    (root / "abc").mkdir(parents=True)
    (root / "abc" / "combined.parquet").touch()
    log = tmp_path / "log" / "run"
    found, tried = find_workspace(PurePosixPath("/gone/abc"), log, [root], holding="combined.parquet")
    assert found == root / "abc"
    assert tried == (
        Path("/gone/abc"),
        tmp_path / "git_ignore_folder" / "RD-Agent_workspace" / "abc",
        root / "abc",
    )


def test_every_place_is_told_when_none_holds_it(tmp_path: Path) -> None:
    """An emptied workspace does not count, and all places are returned."""
    (tmp_path / "abc").mkdir()
    found, tried = find_workspace(PurePosixPath("/gone/abc"), LOG, [tmp_path], holding="combined.parquet")
    assert found is None
    assert len(tried) == 4


@pytest.mark.parametrize("recorded", [PurePosixPath("/a\0b/abc"), PurePosixPath("/" + "x" * 5000)])
def test_impossible_paths_are_passed_over(recorded: PurePosixPath) -> None:
    """A path this system refuses is merely not there."""
    assert find_workspace(recorded, LOG, [], holding="x")[0] is None

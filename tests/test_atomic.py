"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_patch.atomic import replace_atomically, write_text_atomically
from rdagent_sota_patch.errors import SotaError


def test_writes_a_new_file(tmp_path: Path) -> None:
    """A new file holds the text, in UTF-8 and with its line endings, and nothing else is left."""
    target = tmp_path / "因子 表.json"
    write_text_atomically(target, "收益\r\nb\n")
    assert target.read_bytes() == "收益\r\nb\n".encode()
    assert list(tmp_path.iterdir()) == [target]


def test_replaces_an_old_file_and_keeps_its_mode(tmp_path: Path) -> None:
    """The new file has the permissions that the old one had."""
    target = tmp_path / "a.json"
    target.write_text("old")
    target.chmod(0o640)
    write_text_atomically(target, "new")
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_new_files_honour_the_umask(tmp_path: Path) -> None:
    """A new file is as readable as one that open() makes."""
    plain, target = tmp_path / "plain", tmp_path / "target"
    plain.write_text("")
    write_text_atomically(target, "")
    assert target.stat().st_mode == plain.stat().st_mode


def test_the_old_file_stands_until_the_end(tmp_path: Path) -> None:
    """A reader in between sees the old content."""
    target = tmp_path / "a"
    target.write_text("old")
    with replace_atomically(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt()])
def test_a_failing_block_leaves_everything_as_it_was(tmp_path: Path, failure: BaseException) -> None:
    """Any exception leaves the old content, no temporary file, and comes through as it is."""
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(type(failure)), replace_atomically(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failing_disk_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A disk that is full or read-only at the last moment is reported with the target's name."""
    target = tmp_path / "a"
    target.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SotaError) as caught:
        write_text_atomically(target, "new")
    assert caught.value.slug == "cannot-write"
    assert str(target) in str(caught.value)
    assert os.strerror(code) in str(caught.value)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_that_does_not_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync refuses has not been written, and the old file stays."""
    target = tmp_path / "a"
    target.write_text("old")

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SotaError, match="cannot-write"):
        write_text_atomically(target, "new")
    assert target.read_text() == "old"


def test_a_file_in_its_place_is_not_said_to_be_unwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the folder's sync fails, the new file is there, and that is said."""
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with pytest.raises(SotaError, match="written and in its place") as caught:
        write_text_atomically(tmp_path / "a", "text")
    assert caught.value.slug == "not-confirmed"
    assert (tmp_path / "a").read_text() == "text"


def test_file_systems_without_folder_sync_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that refuses to sync folders still gets its file."""
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_text_atomically(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize("place", ["missing/a", "file/a", "folder"])
def test_places_that_cannot_hold_the_file(tmp_path: Path, place: str) -> None:
    """No folder, a file in the folder's place, and a folder in the file's place are refused."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SotaError) as caught:
        write_text_atomically(tmp_path / place, "text")
    assert caught.value.slug == "cannot-write"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """A target that links elsewhere leaves the other file alone."""
    other, target = tmp_path / "other", tmp_path / "target"
    other.write_text("other")
    target.symlink_to(other)
    write_text_atomically(target, "text")
    assert other.read_text() == "other"
    assert not target.is_symlink()
    assert target.read_text() == "text"


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    """The temporary name is not made longer than the target's."""
    target = tmp_path / ("n" * 255)
    write_text_atomically(target, "text")
    assert target.read_text() == "text"


WRITING = """
import os, signal, sys
from pathlib import Path
from rdagent_sota_patch.atomic import replace_atomically
with replace_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_text("theirs")
    print(temporary.name, flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """Of the same file; those of two that died at once, too, and nothing of anybody else's."""
    target = tmp_path / "a"
    command = [sys.executable, "-c", WRITING, str(target)]
    with subprocess.Popen([*command, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        subprocess.run([*command, "die"], check=False, stdout=subprocess.PIPE)
        other.kill()
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    write_text_atomically(tmp_path / "b", "another file's")
    write_text_atomically(target, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert target.read_text() == "new"


def test_a_writer_at_work_keeps_its_file(tmp_path: Path) -> None:
    """Two write the same file at once: each its own, and the last one stays."""
    target = tmp_path / "a"
    command = [sys.executable, "-c", WRITING, str(target), "live"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None
        name = other.stdout.readline().strip()
        write_text_atomically(target, "ours")
        assert (tmp_path / name).read_text() == "theirs"
        assert target.read_text() == "ours"
        other.stdin.close()
        assert other.wait() == 0
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_in_the_way_stays(tmp_path: Path) -> None:
    """A link or a folder where the temporary file would be is not ours to remove, and not followed."""
    target, other = tmp_path / "a", tmp_path / "other"
    with replace_atomically(target) as temporary:
        temporary.write_text("first")
    other.write_text("other")
    temporary.symlink_to(other)
    write_text_atomically(target, "new")
    assert other.read_text() == "other"
    temporary.unlink()
    temporary.mkdir()
    write_text_atomically(target, "newer")
    assert sorted(tmp_path.iterdir()) == sorted([target, other, temporary])

"""A bundle's folder: whole or not there, and what is replaced with --force."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rdagent_sota_patch import atomic
from rdagent_sota_patch.bundle import folder as folder_module
from rdagent_sota_patch.bundle.documents import COMPANION_NAME, MANIFEST_NAME
from rdagent_sota_patch.bundle.folder import make_folder, require_free
from rdagent_sota_patch.errors import BundleError, SotaError
from tests.bundle.made import make_bundle, nested_folders


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """Nothing stands at the target until the block has ended, and nothing beside it afterwards."""
    target = tmp_path / "bundle"
    with make_folder(target) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("content")
        assert not target.exists()
    assert contents(target) == {"deep/file": b"content"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """An error of any kind passes through, and the half of a bundle is gone."""
    with pytest.raises(KeyboardInterrupt), make_folder(tmp_path / "bundle") as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """What the system says of a write becomes one of our errors, and nothing is left."""
    with pytest.raises(SotaError, match="No space left") as caught, make_folder(tmp_path / "bundle"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.slug == "cannot-write"
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    """Without --force, nothing that exists is touched."""
    made = make_bundle(tmp_path / "bundle")
    before = contents(made.folder)
    with pytest.raises(BundleError) as caught, make_folder(made.folder):
        pytest.fail("the block must not begin")
    assert caught.value.slug == "target-exists"
    assert contents(made.folder) == before


def test_force_replaces_an_old_bundle(tmp_path: Path) -> None:
    """The new one stands there, the old one is gone, and so is all that was in between."""
    made = make_bundle(tmp_path / "bundle")
    with make_folder(made.folder, force=True) as folder:
        (folder / "new").write_text("new")
    assert contents(made.folder) == {"new": b"new"}
    assert list(tmp_path.iterdir()) == [made.folder]


def test_no_reader_finds_no_bundle(tmp_path: Path) -> None:
    """The new one takes the old one's place at once, again and again."""
    made = make_bundle(tmp_path / "bundle")
    missed, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            if not (made.folder / "manifest.json").exists():
                missed.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        with make_folder(made.folder, force=True) as folder:
            for name, content in contents(made.folder).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(content)
    done.set()
    reader.join()
    assert not missed


def test_a_failed_export_keeps_the_old_bundle(tmp_path: Path) -> None:
    """With --force, too, a failure leaves everything as it was."""
    made = make_bundle(tmp_path / "bundle")
    before = contents(made.folder)
    with pytest.raises(SotaError), make_folder(made.folder, force=True) as folder:
        (folder / "new").write_text("new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert contents(made.folder) == before
    assert list(tmp_path.iterdir()) == [made.folder]


def test_the_old_bundle_comes_back_when_the_new_one_cannot_be_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two folders cannot be swapped, the old one is only aside between the two renames."""
    monkeypatch.setattr(folder_module, "_exchange", lambda *_: False)
    made = make_bundle(tmp_path / "bundle")
    before = contents(made.folder)
    rename = Path.rename

    def fail_for_new(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    with pytest.raises(SotaError), make_folder(made.folder, force=True) as folder:
        (folder / "new").write_text("new")
        monkeypatch.setattr(Path, "rename", fail_for_new)
    monkeypatch.undo()
    assert contents(made.folder) == before
    assert list(tmp_path.iterdir()) == [made.folder]


def test_force_never_removes_what_is_no_bundle(tmp_path: Path) -> None:
    """A home folder, a file, a link, somebody's manifest.json, a bundle with notes beside: all stay."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("text")
    link = tmp_path / "link"
    link.symlink_to(make_bundle(tmp_path / "linked").folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "a web app"}')
    noted = make_bundle(tmp_path / "noted").folder
    (noted / "notes.md").write_text("mine")
    for target in (home, file, link, other, noted):
        with pytest.raises(BundleError) as caught, make_folder(target, force=True):
            pytest.fail("the block must not begin")
        assert caught.value.slug == "target-not-a-bundle"
    assert (home / "thesis.tex").read_text() == "years of work"
    assert (noted / "notes.md").is_file()


def test_force_takes_an_empty_folder(tmp_path: Path) -> None:
    """A folder made for the bundle beforehand is not an obstacle."""
    target = tmp_path / "bundle"
    target.mkdir()
    with make_folder(target, force=True) as folder:
        (folder / "new").write_text("new")
    assert contents(target) == {"new": b"new"}


def test_a_missing_parent_is_said(tmp_path: Path) -> None:
    """The folder that the bundle goes into is the user's to make."""
    with pytest.raises(SotaError) as caught, make_folder(tmp_path / "missing" / "bundle"):
        pytest.fail("the block must not begin")
    assert caught.value.slug == "cannot-write"


def test_a_link_to_a_folder_is_somebodys(tmp_path: Path) -> None:
    """It is not a part of a bundle, and replacing the bundle would lose it."""
    made = make_bundle(tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    (made.folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError) as caught, make_folder(made.folder, force=True):
        pytest.fail("the block must not begin")
    assert caught.value.slug == "target-not-a-bundle"


def test_an_earlier_sync_is_replaced(tmp_path: Path) -> None:
    """Its companion goes with it; files that the caller knows go even where the manifest was damaged."""
    folder = make_bundle(tmp_path / "bundle").folder
    known = contents(folder).keys()
    (folder / COMPANION_NAME).write_text("{}")
    require_free(folder, force=True)
    (folder / MANIFEST_NAME).write_text("damaged")
    with pytest.raises(BundleError):
        require_free(folder, force=True)
    require_free(folder, force=True, known=known)
    (folder / MANIFEST_NAME).unlink()
    require_free(folder, force=True, known=known)
    (folder / "notes.md").write_text("mine")
    with pytest.raises(BundleError) as caught:
        require_free(folder, force=True, known=known)
    assert "notes.md" in str(caught.value)


KILLED = """
import os, signal, sys
from pathlib import Path
from rdagent_sota_patch.bundle.folder import make_folder
with make_folder(Path(sys.argv[1])) as folder:
    (folder / "weights").write_bytes(b"0" * 1000)
    print(folder.name, flush=True)
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def test_what_a_killed_export_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """Its hidden folder; somebody's of a like name, a file and a link stay."""
    subprocess.run([sys.executable, "-c", KILLED, tmp_path / "a", "die"], check=False, stdout=subprocess.PIPE)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".rdagent-sota-")
    somebodys = [tmp_path / ".rdagent-sota-mine.tmp", tmp_path / f".rdagent-sota-{'0' * 16}.tmp"]
    somebodys[0].mkdir()
    somebodys[1].write_text("a file")
    link = tmp_path / f".rdagent-sota-{'1' * 16}.tmp"
    link.symlink_to(somebodys[0])
    with make_folder(tmp_path / "b") as folder:
        (folder / "new").write_text("new")
        assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "b", *somebodys, link])


def test_an_export_that_is_still_at_work_keeps_its_folder(tmp_path: Path) -> None:
    """Whatever others do beside it."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a"), "live"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        name = process.stdout.readline().strip()
        with make_folder(tmp_path / "b") as folder:
            (folder / "new").write_text("new")
        assert (tmp_path / name / "weights").exists()
        process.stdin.close()
        assert process.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_bundle_in_its_place_is_not_said_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk does not confirm the new name, that is what is said: the old one is replaced."""
    made = make_bundle(tmp_path / "bundle")

    def fail(folder: Path) -> None:
        if folder == tmp_path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic, "sync_folder", fail)
    with pytest.raises(SotaError) as caught, make_folder(made.folder, force=True) as folder:
        (folder / "new").write_text("new")
    assert caught.value.slug == "not-confirmed"
    assert contents(made.folder) == {"new": b"new"}
    assert list(tmp_path.iterdir()) == [made.folder]


def test_where_the_old_bundle_is_is_said_when_it_cannot_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never that nothing is left behind."""
    monkeypatch.setattr(folder_module, "_exchange", lambda *_: False)
    made = make_bundle(tmp_path / "bundle")
    before = contents(made.folder)
    rename = Path.rename

    def fail_from_the_second(path: Path, target: Path) -> Path:
        if target == made.folder:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    with pytest.raises(SotaError) as caught, make_folder(made.folder, force=True) as folder:
        (folder / "new").write_text("new")
        monkeypatch.setattr(Path, "rename", fail_from_the_second)
    monkeypatch.undo()
    (old,) = tmp_path.iterdir()
    assert str(old) in str(caught.value)
    assert contents(old) == before


def test_a_deep_tree_is_somebodys(tmp_path: Path) -> None:
    """It is not gone down into, and not removed."""
    made = make_bundle(tmp_path / "bundle")
    with nested_folders(made.folder, "d", 1200):
        with pytest.raises(SotaError, match="such as d/"), make_folder(made.folder, force=True):
            pass
        assert (made.folder / "d" / "d").is_dir()


def test_in_a_workshop_of_the_callers(tmp_path: Path) -> None:
    """The new bundle is made in the folder that the caller holds, and nothing is made beside the target."""
    workshop, parent = tmp_path / "workshop", tmp_path / "parent"
    workshop.mkdir()
    parent.mkdir()
    with make_folder(parent / "bundle", workshop=workshop) as folder:
        assert folder.parent == workshop
        assert not list(parent.iterdir())
        (folder / "a").write_text("a", encoding="utf-8")
    assert contents(parent / "bundle") == {"a": b"a"}


def test_where_folders_cannot_be_swapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that cannot swap two folders, the old bundle is put aside first: the new one is in its place."""
    swap = type("C", (), {"renameat2": staticmethod(lambda *_: -1)})
    monkeypatch.setattr(folder_module.ctypes, "CDLL", lambda *_, **__: swap)
    monkeypatch.setattr(folder_module.ctypes, "get_errno", lambda: errno.EINVAL)
    old = make_bundle(tmp_path / "bundle").folder
    with make_folder(old, force=True) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
    assert contents(tmp_path / "bundle") == {"new": b"new"}
    assert list(tmp_path.iterdir()) == [old]

"""A folder of the server's own, which two servers may share."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rdagent_sota_patch.results.cache_folder import make_room, put, throw_out
from rdagent_sota_patch.work_folder import make_aside


def put_file(path: Path, age: float = 0.0) -> Path:
    """A file of 100 bytes that was used so many seconds ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"0" * 100)
    os.utime(path, (time.time() - age,) * 2)
    os.utime(path.parent, (time.time() - age,) * 2)
    return path


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    """Files and folders alike, and each as a whole."""
    old = put_file(tmp_path / "old" / "a", age=300)
    older = put_file(tmp_path / "older" / "a", age=600)
    new = put_file(tmp_path / "new" / "a")
    make_room(tmp_path, 200)
    assert (older.parent.exists(), old.exists(), new.exists()) == (False, True, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_what_another_server_is_making_stays(tmp_path: Path) -> None:
    """It neither goes nor counts, be it an export or a zip that is being written; after a day it is left behind."""
    zipped = put_file(tmp_path / ".0123456789abcdef.tmp", age=60)
    forgotten = put_file(tmp_path / ".fedcba9876543210.tmp", age=2 * 24 * 3600)
    with make_aside(tmp_path) as work:
        (work / "bundle").write_bytes(b"0" * 1000)
        make_room(tmp_path, 0)
        assert (work / "bundle").exists()
    assert (zipped.exists(), forgotten.exists(), work.exists()) == (True, False, False)


def test_the_quicker_servers_bundle_stays(tmp_path: Path) -> None:
    """What the other one made goes, and that is not an error."""
    there = put_file(tmp_path / "key" / "manifest.json")
    with make_aside(tmp_path) as work:
        (work / "bundle").mkdir()
        (work / "bundle" / "other").write_text("")
        put(work / "bundle", tmp_path / "key")
    assert there.exists() and list(tmp_path.iterdir()) == [there.parent]


def test_what_is_gone_already_is_thrown_out(tmp_path: Path) -> None:
    """By the other server: nothing is left to do."""
    throw_out(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []

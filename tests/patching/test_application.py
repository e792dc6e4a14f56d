"""Putting a patch in and taking it out: all files or none, byte for byte."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.patching import application
from rdagent_sota_patch.patching.application import apply_patch, revert_patch
from rdagent_sota_patch.patching.source import SourceReport, SourceState, inspect_source
from tests.patching.released import ADDED, LOOP, RUNNER, made_up_patches, read_source, write_source


def inspect(root: Path) -> SourceReport:
    return inspect_source(root, made_up_patches())


@pytest.mark.parametrize("release", ["1.0.0", "0.8.0"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_round_trip_is_byte_for_byte(tmp_path: Path, release: str, newline: bytes) -> None:
    """Added lines end as the file's lines do; taken out, nothing is left."""
    originals = write_source(tmp_path, release, newline)
    written = apply_patch(inspect(tmp_path))
    assert written == (tmp_path / LOOP, tmp_path / RUNNER)
    added = ADDED.replace(b"\n", newline)
    assert read_source(tmp_path) == {path: content + added for path, content in originals.items()}
    assert revert_patch(inspect(tmp_path)) == written
    assert read_source(tmp_path) == originals
    assert {path.name for path in (tmp_path / LOOP).parent.iterdir()} == {"rd_loop.py"}


def test_doing_it_twice_changes_nothing(tmp_path: Path) -> None:
    """Applied to what is patched, or reverted from what is not: nothing is written."""
    write_source(tmp_path)
    assert revert_patch(inspect(tmp_path)) == ()
    apply_patch(inspect(tmp_path))
    before = (tmp_path / LOOP).stat()
    assert apply_patch(inspect(tmp_path)) == ()
    assert (tmp_path / LOOP).stat().st_mtime_ns == before.st_mtime_ns
    assert inspect(tmp_path).state is SourceState.APPLIED


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_modes_are_kept(tmp_path: Path) -> None:
    """A file that only its owner may read stays so, and an executable one executable."""
    write_source(tmp_path)
    (tmp_path / LOOP).chmod(0o600)
    (tmp_path / RUNNER).chmod(0o755)
    for act in (apply_patch, revert_patch):
        act(inspect(tmp_path))
        modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in (LOOP, RUNNER)]
        assert modes == [0o600, 0o755]


def test_a_hard_link_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Installers share files between environments by hard links; the other environment's stays as it was."""
    originals = write_source(tmp_path)
    os.link(tmp_path / LOOP, tmp_path / "cache.py")
    apply_patch(inspect(tmp_path))
    assert (tmp_path / "cache.py").read_bytes() == originals[LOOP]


@pytest.mark.parametrize("act", [apply_patch, revert_patch])
@pytest.mark.parametrize("spoil", ["edited", "half", "other release"])
def test_what_does_not_fit_is_left_alone(tmp_path: Path, act: object, spoil: str) -> None:
    """Edited in one file, half patched, or another release: an error, and no byte is touched."""
    assert callable(act)
    content = write_source(tmp_path)[RUNNER]
    if spoil == "edited":
        (tmp_path / RUNNER).write_bytes(b"# mine\n" + content)
    elif spoil == "half":
        (tmp_path / RUNNER).write_bytes(content + ADDED)
    else:
        for path in (LOOP, RUNNER):
            (tmp_path / path).write_bytes(b"other = True\n")
    before = read_source(tmp_path)
    with pytest.raises(SotaError, match=r"patch-(source-changed|half-applied|other-release)"):
        act(inspect(tmp_path))
    assert read_source(tmp_path) == before


@pytest.mark.parametrize("place", [RUNNER, str(Path(RUNNER).parent)], ids=["file", "folder"])
def test_without_permission_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """One file or folder that may not be written to keeps the other file from being written, too."""
    originals = write_source(tmp_path)
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != tmp_path / place and allowed(path, mode)
    )
    with pytest.raises(SotaError, match="cannot-write") as caught:
        apply_patch(inspect(tmp_path))
    assert len(caught.value.problems) == 1
    assert str(tmp_path / place) in str(caught.value)
    assert read_source(tmp_path) == originals


@pytest.mark.parametrize("failing", [LOOP, RUNNER])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_between_the_files_undoes_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    """Whichever file's replacement fails, both are afterwards as before, and nothing lies around."""
    originals = write_source(tmp_path)
    replace, failures = Path.replace, [error]

    def fail_once(self: Path, target: Path) -> Path:
        if target == tmp_path / failing and failures:
            raise failures.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_once)
    with pytest.raises((SotaError, KeyboardInterrupt)):
        apply_patch(inspect(tmp_path))
    assert read_source(tmp_path) == originals
    assert [path.name for path in (tmp_path / failing).parent.iterdir()] == [Path(failing).name]


def test_all_is_on_disk_before_the_first_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk shows before any file has been replaced."""
    originals = write_source(tmp_path)
    seen = []

    def watch(target: Path) -> AbstractContextManager[Path]:
        seen.append(read_source(tmp_path) == originals)
        return replace_atomically(target)

    monkeypatch.setattr(application, "replace_atomically", watch)
    apply_patch(inspect(tmp_path))
    assert seen == [True, True]

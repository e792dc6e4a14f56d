"""Finding RD-Agent's source in a folder, and patching both of its files or none."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import stat
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.patching import source
from rdagent_sota_patch.patching.source import (
    BLOCK,
    FILES,
    SourceState,
    apply_patch,
    inspect_source,
    revert_patch,
)
from tests.patching.released import LOOP, OLDER, RUNNER, read_source, write_source

PATCHES = Path(__file__).resolve().parents[2] / "patches"
GIT = shutil.which("git")


def copy_installed(root: Path) -> dict[str, bytes]:
    """Copy the installed RD-Agent's files that are patched, and what marks it as RD-Agent."""
    pytest.importorskip("rdagent")
    package = importlib.util.find_spec("rdagent")
    assert package is not None and package.submodule_search_locations
    installed = Path(package.submodule_search_locations[0]).parent
    for name in (*FILES, "rdagent/app/cli.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(installed / name, root / name)
    (root / "rdagent" / "core").mkdir()
    return read_source(root)


def git_apply(root: Path, patch: bytes) -> None:
    assert GIT is not None
    subprocess.run(
        [GIT, "-c", "core.autocrlf=false", "apply", "-"],
        cwd=root,
        input=patch,
        check=True,
        env={"PATH": str(Path(GIT).parent), "GIT_CEILING_DIRECTORIES": str(root.parent)},
    )


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_round_trip_is_byte_for_byte(tmp_path: Path, newline: bytes) -> None:
    """Both files get the block with their line ends; taken out, nothing is left."""
    originals = write_source(tmp_path, newline)
    assert inspect_source(tmp_path).state is SourceState.UNPATCHED
    written = apply_patch(inspect_source(tmp_path))
    assert written == (tmp_path / LOOP, tmp_path / RUNNER)
    added = (b"\n\n" + BLOCK + b"\n").replace(b"\n", newline)
    assert read_source(tmp_path) == {path: content + added for path, content in originals.items()}
    found = inspect_source(tmp_path)
    assert (found.state, found.problems, found.notices) == (SourceState.PATCHED, (), ())
    assert revert_patch(found) == written
    assert read_source(tmp_path) == originals
    assert {path.name for path in (tmp_path / LOOP).parent.iterdir()} == {"rd_loop.py"}


def test_doing_it_twice_changes_nothing(tmp_path: Path) -> None:
    """Applied to what is patched, or reverted from what is not: nothing is written."""
    write_source(tmp_path)
    assert revert_patch(inspect_source(tmp_path)) == ()
    apply_patch(inspect_source(tmp_path))
    (tmp_path / LOOP).write_bytes((tmp_path / LOOP).read_bytes() + b"mine = 1\n")
    before = (tmp_path / LOOP).stat()
    assert apply_patch(inspect_source(tmp_path)) == ()
    assert (tmp_path / LOOP).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("patched", [LOOP, RUNNER])
@pytest.mark.parametrize("act", [apply_patch, revert_patch], ids=["apply", "revert"])
def test_half_patched_is_told_and_mended(tmp_path: Path, patched: str, act: object) -> None:
    """One file with, one without the block: an error that names them, and either way out works."""
    assert callable(act)
    originals = write_source(tmp_path)
    apply_patch(inspect_source(tmp_path))
    both = read_source(tmp_path)
    (other,) = {LOOP, RUNNER} - {patched}
    (tmp_path / other).write_bytes(originals[other])
    found = inspect_source(tmp_path)
    (problem,) = found.problems
    assert (found.state, problem.slug) == (SourceState.HALF, "patch-half-applied")
    assert problem.message == f"The patch is in {tmp_path / patched} and not in {tmp_path / other}."
    assert len(act(found)) == 1
    assert read_source(tmp_path) == (both if act is apply_patch else originals)


def test_an_older_patch_is_recognized(tmp_path: Path) -> None:
    """It counts as patched, with a notice; it is taken out to the byte, or replaced by the marked block."""
    originals = write_source(tmp_path)
    older = {path: content + OLDER for path, content in originals.items()}
    for act, expected in (
        (revert_patch, originals),
        (apply_patch, {path: content + b"\n\n" + BLOCK + b"\n" for path, content in originals.items()}),
    ):
        for path, content in older.items():
            (tmp_path / path).write_bytes(content)
        found = inspect_source(tmp_path)
        assert (found.state, found.problems) == (SourceState.PATCHED, ())
        assert [notice.slug for notice in found.notices] == ["patch-older"] * 2
        assert len(act(found)) == 2
        assert read_source(tmp_path) == expected


@pytest.mark.parametrize("act", [apply_patch, revert_patch], ids=["apply", "revert"])
@pytest.mark.parametrize(
    ("spoil", "slug", "words"),
    [
        ("damaged", "patch-block-damaged", "line 7: the patch's block is not as this package puts it in"),
        ("missing", "patch-file-unusable", "is missing"),
        ("link", "patch-file-unusable", "is a link, lies behind one, or is not a file"),
        ("linked folder", "patch-file-unusable", "is a link, lies behind one, or is not a file"),
        ("folder", "patch-file-unusable", "is a link, lies behind one, or is not a file"),
    ],
)
def test_what_cannot_be_patched_is_left_alone(
    tmp_path: Path, act: object, spoil: str, slug: str, words: str
) -> None:
    """One file that will not do, and no byte of either is touched."""
    assert callable(act)
    root = tmp_path / "checkout"
    root.mkdir()
    content = write_source(root)[RUNNER]
    runner = root / RUNNER
    if spoil == "damaged":
        runner.write_bytes(content + b"\n# >>> rdagent-sota-patch >>>\n")
    elif spoil == "linked folder":
        runner.parent.rename(tmp_path / "shared")
        runner.parent.symlink_to(tmp_path / "shared")
    else:
        runner.rename(tmp_path / "shared.py")
        if spoil == "link":
            runner.symlink_to(tmp_path / "shared.py")
        elif spoil == "folder":
            runner.mkdir()
    loop, before = (root / LOOP).read_bytes(), runner.read_bytes() if runner.is_file() else None
    found = inspect_source(root)
    assert found.state is SourceState.UNUSABLE
    with pytest.raises(HostError, match=slug) as caught:
        act(found)
    assert str(runner) in str(caught.value) and words in str(caught.value)
    assert (root / LOOP).read_bytes() == loop
    assert (runner.read_bytes() if runner.is_file() else None) == before


@pytest.mark.parametrize("place", [".", "rdagent", "rdagent/../rdagent"])
def test_checkout_and_package_are_the_same_source(tmp_path: Path, place: str) -> None:
    """Either folder may be named."""
    write_source(tmp_path)
    assert inspect_source(tmp_path / place).root == tmp_path.resolve()


@pytest.mark.parametrize("make", ["nothing", "file", "empty", "other"])
def test_a_folder_without_rdagent_is_told(tmp_path: Path, make: str) -> None:
    """A folder that happens to be called rdagent is not it."""
    target = tmp_path / "rdagent"
    if make == "file":
        target.touch()
    elif make == "empty":
        target.mkdir()
    elif make == "other":
        (target / "rdagent").mkdir(parents=True)
    with pytest.raises(HostError, match="patch-source-not-found"):
        inspect_source(target)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No permission is its own error."""
    write_source(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        HostError, match=r"patch-source-unreadable.*rd_loop.py cannot be read: Permission denied"
    ):
        inspect_source(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_modes_are_kept(tmp_path: Path) -> None:
    """A file that only its owner may read stays so, and an executable one executable."""
    write_source(tmp_path)
    (tmp_path / LOOP).chmod(0o600)
    (tmp_path / RUNNER).chmod(0o755)
    for act in (apply_patch, revert_patch):
        act(inspect_source(tmp_path))
        modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in (LOOP, RUNNER)]
        assert modes == [0o600, 0o755]


def test_a_hard_link_elsewhere_is_left_alone(tmp_path: Path) -> None:
    """Installers share files between environments by hard links; the other environment's stays as it was."""
    originals = write_source(tmp_path)
    os.link(tmp_path / LOOP, tmp_path / "cache.py")
    apply_patch(inspect_source(tmp_path))
    assert (tmp_path / "cache.py").read_bytes() == originals[LOOP]


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
        apply_patch(inspect_source(tmp_path))
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
        apply_patch(inspect_source(tmp_path))
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

    monkeypatch.setattr(source, "replace_atomically", watch)
    apply_patch(inspect_source(tmp_path))
    assert seen == [True, True]


@pytest.mark.skipif(GIT is None, reason="asks git")
@pytest.mark.parametrize("kind", ["LF", "CRLF", "no line end"])
def test_git_makes_the_same_of_the_shown_patch(tmp_path: Path, kind: str) -> None:
    """`rdagent-sota patch show | git apply` and `rdagent-sota patch apply` give the same files."""
    originals = write_source(tmp_path, b"\r\n" if kind == "CRLF" else b"\n")
    if kind == "no line end":
        for path, content in originals.items():
            (tmp_path / path).write_bytes(content.rstrip())
    originals = read_source(tmp_path)
    found = inspect_source(tmp_path)
    apply_patch(found)
    patched = read_source(tmp_path)
    assert inspect_source(tmp_path).diff() == found.diff()
    revert_patch(inspect_source(tmp_path))
    git_apply(tmp_path, found.diff())
    assert read_source(tmp_path) == patched != originals


@pytest.mark.skipif(GIT is None, reason="asks git")
def test_the_patch_file_of_the_installed_release(tmp_path: Path) -> None:
    """Applied by git, it is what this package calls patched; it parses, and is taken out to the byte."""
    originals = copy_installed(tmp_path)
    patch = (PATCHES / f"rdagent-{importlib.metadata.version('rdagent')}.patch").read_bytes()
    assert patch == inspect_source(tmp_path).diff()
    git_apply(tmp_path, patch)
    found = inspect_source(tmp_path)
    assert (found.state, found.notices) == (SourceState.PATCHED, ())
    for file in found.files:
        compile(file.path.read_bytes(), file.path, "exec")
    revert_patch(found)
    assert read_source(tmp_path) == originals


def test_each_patch_file_adds_the_block() -> None:
    """The patches for git add the block to the two files, and nothing else."""
    block = b"".join(b"+" + line + b"\n" for line in b"\n\n".join([b"", BLOCK]).split(b"\n"))
    for path in sorted(PATCHES.glob("*.patch")):
        patch = path.read_bytes()
        assert patch.count(block) == len(FILES)
        assert patch.count(b"\n+") == len(FILES) * (block.count(b"\n") + 1), "the block and +++ lines alone"
        assert all(f"+++ b/{name}\n".encode() in patch for name in FILES)

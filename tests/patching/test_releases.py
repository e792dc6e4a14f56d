"""The patches themselves, held against the RD-Agent that is installed here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rdagent_sota_patch._startup import LOOP_MODULE, RUNNER_MODULE
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.patching import releases
from rdagent_sota_patch.patching.application import apply_patch, revert_patch
from rdagent_sota_patch.patching.releases import RELEASES, ReleasePatch, shipped_patches
from rdagent_sota_patch.patching.source import SourceState, inspect_source

PROJECT = Path(__file__).resolve().parents[2]
MODULES = {module.replace(".", "/") + ".py": module for module in (LOOP_MODULE, RUNNER_MODULE)}


def copy_installed(root: Path) -> dict[str, bytes]:
    """Copy the installed RD-Agent's files that a patch is about, and what marks it as RD-Agent."""
    package = importlib.util.find_spec("rdagent")
    assert package is not None and package.submodule_search_locations
    installed = Path(package.submodule_search_locations[0]).parent
    for name in (*MODULES, "rdagent/app/cli.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(installed / name, root / name)
    (root / "rdagent" / "core").mkdir()
    return {name: (root / name).read_bytes() for name in MODULES}


def test_each_release_has_one_patch() -> None:
    """What lies in patches/ is what the package knows of, and what it ships."""
    assert {path.name for path in (PROJECT / "patches").glob("*.patch")} == {
        f"rdagent-{release}.patch" for release in RELEASES
    }
    project = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    shipped = re.findall(
        r'^"patches/(\S+\.patch)" = "rdagent_sota_patch/patching/(\S+)"', project, re.MULTILINE
    )
    assert shipped == [(f"rdagent-{release}.patch",) * 2 for release in RELEASES]


def test_each_patch_is_about_the_modules_that_the_hook_watches() -> None:
    """Every patch adds the same lines at the end of the same two files, and takes none away."""
    for patch in shipped_patches():
        assert [str(file.path) for file in patch.files] == sorted(MODULES)
        added = set()
        for file in patch.files:
            (hunk,) = file.hunks
            assert hunk.new_lines[: len(hunk.lines)] == hunk.lines
            added.add(hunk.new_lines[len(hunk.lines) :])
        (lines,) = added
        assert lines[-1] == b"attach_patched(__name__)\n"
        assert b"from rdagent_sota_patch.patching.hook import attach_patched  # noqa: E402\n" in lines


def test_the_patch_fits_the_installed_release(tmp_path: Path) -> None:
    """Applied to the installed files it is in, it parses as Python, and taken out it leaves them as they were."""
    pytest.importorskip("rdagent")
    originals = copy_installed(tmp_path)
    report = inspect_source(tmp_path, shipped_patches())
    assert (report.state, report.release) == (SourceState.APPLIES, importlib.metadata.version("rdagent"))
    written = apply_patch(report)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == sorted(MODULES)
    for path in written:
        compile(path.read_bytes(), path, "exec")
    revert_patch(inspect_source(tmp_path, shipped_patches()))
    assert {name: (tmp_path / name).read_bytes() for name in MODULES} == originals


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
def test_git_applies_it_alike(tmp_path: Path) -> None:
    """The patch is an ordinary one: `git apply` makes the same files of it."""
    pytest.importorskip("rdagent")
    copy_installed(tmp_path)
    report = inspect_source(tmp_path, shipped_patches())
    assert report.patch is not None
    subprocess.run(
        ["git", "-c", "core.autocrlf=false", "apply", "-"],
        cwd=tmp_path,
        input=report.patch.text.encode(),
        check=True,
        env={
            "PATH": str(Path(shutil.which("git") or "").parent),
            "GIT_CEILING_DIRECTORIES": str(tmp_path.parent),
        },
    )
    assert inspect_source(tmp_path, shipped_patches()).state is SourceState.APPLIED


def test_a_patch_with_other_line_ends_is_the_same() -> None:
    """A checkout of this project may have been given CRLF."""
    for patch in shipped_patches():
        text = patch.text.encode().replace(b"\n", b"\r\n")
        assert ReleasePatch.parse(patch.release, text) == patch


@pytest.mark.parametrize("content", [None, b"", b"--- a\n+++ b\n"], ids=["missing", "empty", "damaged"])
def test_missing_or_damaged_patches_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    """An installation that lost them says so, instead of that nothing fits."""
    folder = tmp_path / "rdagent_sota_patch" / "patching"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "rdagent-1.0.0.patch").write_bytes(content)
    monkeypatch.setattr(releases, "_here", lambda: folder)
    with pytest.raises(SotaError, match="patch-unreadable"):
        shipped_patches()


def test_a_wheel_has_them_beside_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no folder patches/, they are found beside the code that reads them."""
    folder = tmp_path / "rdagent_sota_patch" / "patching"
    folder.mkdir(parents=True)
    for path in (PROJECT / "patches").glob("*.patch"):
        shutil.copy(path, folder)
    expected = shipped_patches()
    monkeypatch.setattr(releases, "_here", lambda: folder)
    assert shipped_patches() == expected

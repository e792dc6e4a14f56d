"""RD-Agent's source in a folder: where it is, which release it is, and whether the patch is in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import HostError, Problem
from rdagent_sota_patch.patching.diff import git_hash
from rdagent_sota_patch.patching.releases import OLDEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rdagent_sota_patch.patching.diff import FilePatch
    from rdagent_sota_patch.patching.releases import ReleasePatch

_CHANGES = re.compile(r"^## \[(\d+\.\d+\.\d+)\]", re.MULTILINE)
_VERSION = re.compile(r"^Version: (\S+)", re.MULTILINE)


class FileState(Enum):
    """What a file is to a patch."""

    ORIGINAL = "original"
    PATCHED = "patched"
    CHANGED = "changed"


class SourceState(Enum):
    """What a source is to the patches."""

    APPLIES = "applies"
    APPLIED = "applied"
    HALF_APPLIED = "half-applied"
    CHANGED = "changed"
    OTHER_RELEASE = "other-release"


@dataclass(frozen=True, slots=True)
class FileFinding:
    """A file that is to be patched.

    Attributes:
        content: As it is on disk; None where there is no such file.
        newline: Its line end.
        reason: Why it is neither the released nor the patched file.
        hunks_fit: Whether the patch's hunks would fit, in one direction or the other.
    """

    patch: FilePatch
    path: Path
    content: bytes | None
    newline: bytes
    state: FileState
    reason: str = ""
    hunks_fit: bool = False


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What was found in a folder.

    Attributes:
        root: The folder that holds ``rdagent``, to which the patch's paths are relative.
        version: What the folder says of itself, by metadata or change log; only a hint.
        patch: The patch that fits, or comes closest; None for another release.
    """

    root: Path
    version: str | None
    patch: ReleasePatch | None
    state: SourceState
    files: tuple[FileFinding, ...]
    problems: tuple[Problem, ...]

    @property
    def release(self) -> str | None:
        """The release whose patch this is about."""
        return self.patch.release if self.patch else None


def inspect_source(folder: Path, patches: Sequence[ReleasePatch]) -> SourceReport:
    """Tell which of ``patches`` is for the source in ``folder``, and whether it is in.

    The release is found by content: the files of each are unlike those of any other.

    Args:
        folder: A checkout, a folder of installed packages, or the package's own folder.

    Raises:
        HostError: There is no RD-Agent in ``folder``, or it cannot be read.
    """
    try:
        root = _find_root(folder)
        version = _read_version(root)
        findings = [tuple(_judge(root, file) for file in patch.files) for patch in patches]
    except OSError as error:
        raise HostError(
            "patch-source-unreadable",
            f"{error.filename or folder} cannot be read: {error.strerror or error}.",
            "Check its permissions.",
        ) from error
    patch, files = max(
        zip(patches, findings, strict=True), key=lambda pair: _closeness(pair[1], pair[0].release == version)
    )
    state = _judge_all(files)
    problems: tuple[Problem, ...] = ()
    if state is SourceState.HALF_APPLIED:
        problems = (_half_applied(files),)
    elif state is SourceState.CHANGED:
        releases = [patch.release for patch in patches]
        if version not in releases if version else not any(file.hunks_fit for file in files):
            problem = _other_release(root, version, releases)
            return SourceReport(root, version, None, SourceState.OTHER_RELEASE, (), (problem,))
        problems = tuple(_changed(file, patch.release) for file in files if file.state is FileState.CHANGED)
    return SourceReport(root, version, patch, state, files, problems)


def _judge_all(files: tuple[FileFinding, ...]) -> SourceState:
    states = {file.state for file in files}
    if FileState.CHANGED in states:
        return SourceState.CHANGED
    if len(states) > 1:
        return SourceState.HALF_APPLIED
    return SourceState.APPLIES if states == {FileState.ORIGINAL} else SourceState.APPLIED


def _closeness(files: tuple[FileFinding, ...], is_named: bool) -> tuple[int, int, bool]:
    recognized = sum(file.state is not FileState.CHANGED for file in files)
    return recognized, sum(file.hunks_fit for file in files), is_named


def _find_root(folder: Path) -> Path:
    resolved = folder.resolve()
    if _is_package(resolved / "rdagent"):
        return resolved
    if resolved.name == "rdagent" and _is_package(resolved):
        return resolved.parent
    raise HostError(
        "patch-source-not-found",
        f"There is no RD-Agent in {folder}." if folder.is_dir() else f"{folder} is no folder.",
        "Name the checkout of RD-Agent: the folder that holds rdagent/.",
    )


def _is_package(folder: Path) -> bool:
    # It has no __init__.py.
    return (folder / "app" / "cli.py").is_file() and (folder / "core").is_dir()


def _read_version(root: Path) -> str | None:
    metadata = [*sorted(root.glob("rdagent-*.dist-info/METADATA")), root / "rdagent.egg-info" / "PKG-INFO"]
    for path in (*metadata, root / "PKG-INFO"):
        if found := _search(_VERSION, path):
            return found
    # A plain clone has its version in git's tags and its change log. The latter was not kept up after 0.8.0.
    found = _search(_CHANGES, root / "CHANGELOG.md")
    return found if found and _numbers(found) < OLDEST else None


def _search(pattern: re.Pattern[str], path: Path) -> str | None:
    if not path.is_file():
        return None
    found = pattern.search(path.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None


def _judge(root: Path, patch: FilePatch) -> FileFinding:
    path = root / patch.path
    if path.is_symlink() or not path.is_file():
        reason = "it is a link" if path.is_symlink() else "it is missing"
        return FileFinding(patch, path, None, b"\n", FileState.CHANGED, reason)
    content = path.read_bytes()
    newline = b"\r\n" if b"\r\n" in content else b"\n"
    plain = content.replace(newline, b"\n")
    if plain.replace(b"\n", newline) != content or b"\r" in plain:
        return FileFinding(patch, path, content, newline, FileState.CHANGED, "it has mixed line ends")
    found = git_hash(plain)
    if found in (patch.before, patch.after):
        state = FileState.ORIGINAL if found == patch.before else FileState.PATCHED
        return FileFinding(patch, path, content, newline, state, hunks_fit=True)
    reason, fits = "", True
    if not patch.reverse().misfits(plain):
        reason = "the patch is in it, and it differs elsewhere"
    elif not patch.misfits(plain):
        reason = "the patch's hunks fit, and the file differs elsewhere"
    else:
        reason, fits = "; ".join(_describe_misfits(patch, plain)), False
    return FileFinding(patch, path, content, newline, FileState.CHANGED, reason, fits)


def _describe_misfits(patch: FilePatch, content: bytes) -> Iterator[str]:
    for number in patch.misfits(content):
        yield f"hunk {number} (line {patch.hunks[number - 1].position + 1}) does not fit"


def _changed(file: FileFinding, release: str) -> Problem:
    return Problem(
        "patch-source-changed",
        f"{file.path} is not the file of RD-Agent {release}: {file.reason}.",
        f"See what was edited (git diff -- {file.patch.path}); put it back as it was released, or edit it by hand.",
    )


def _half_applied(files: tuple[FileFinding, ...]) -> Problem:
    patched, original = (
        ", ".join(str(file.patch.path) for file in files if file.state is state)
        for state in (FileState.PATCHED, FileState.ORIGINAL)
    )
    return Problem(
        "patch-half-applied",
        f"The patch is in {patched} and not in {original}.",
        f"Put {patched} back as it was released (git checkout -- FILE); then the patch applies.",
    )


def _other_release(root: Path, version: str | None, releases: list[str]) -> Problem:
    supported = " and ".join(releases)
    if version is None:
        message = f"The source in {root} is not that of RD-Agent {supported}, and does not say what it is."
    elif _numbers(version) < OLDEST:
        message = f"The source in {root} is RD-Agent {version}; releases below 0.8.0 are not supported."
    else:
        message = f"The source in {root} is RD-Agent {version}; there are patches for {supported}."
    return Problem("patch-other-release", message, f"Check out one of these: {supported}.")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])

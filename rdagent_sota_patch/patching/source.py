"""Both files of a source, with the marked block put into them or taken out.

It is the same few bytes in every file, put in front of the file's last line end. So the file around it may be any:
edited, of either line end or of both, with or without a line end at its end. Taking out those bytes gives back all
others.
"""

from __future__ import annotations

import difflib
import os
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from rdagent_sota_patch._startup import LOOP_MODULE, RUNNER_MODULE
from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import HostError, Problem, SotaError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BLOCK = b"""\
# >>> rdagent-sota-patch >>>
# Put in by `rdagent-sota patch apply`, taken out by `rdagent-sota patch revert`.
from rdagent_sota_patch.patching.hook import attach_patched  # noqa: E402

attach_patched(__name__)
# <<< rdagent-sota-patch <<<"""

_WITHOUT_MARKS = b"\n".join(BLOCK.splitlines()[1:-1])
"""What was put in at the same place before there were marks."""

_TRACES = (b"rdagent-sota-patch >>>", b"rdagent-sota-patch <<<", b"attach_patched")


class BlockState(Enum):
    """What a file has of the block."""

    ABSENT = "unpatched"
    PRESENT = "patched"
    OLDER = "patched by an older version"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Patchable:
    """A file's content, told apart from the block.

    Attributes:
        content: As it is on disk.
        plain: Without the block.
        trace: Where a damaged block begins, as a line counted from 1; 0 for one that is whole or absent.
    """

    content: bytes
    plain: bytes
    state: BlockState
    trace: int = 0

    @property
    def patched(self) -> bytes:
        """The content with the block of this version; as it is where that is in."""
        if self.state is BlockState.PRESENT:
            return self.content
        newline = b"\r\n" if 2 * self.plain.count(b"\r\n") > self.plain.count(b"\n") else b"\n"
        end = next((end for end in (b"\r\n", b"\n") if self.plain.endswith(end)), b"")
        return self.plain.removesuffix(end) + _spell(BLOCK, newline) + end


def find_block(content: bytes) -> Patchable:
    """Tell whether the block is in ``content``, and what it is without."""
    for state, block in ((BlockState.PRESENT, BLOCK), (BlockState.OLDER, _WITHOUT_MARKS)):
        for newline in (b"\r\n", b"\n"):
            before, found, after = content.partition(_spell(block, newline))
            if found and not _find_trace(before + after):
                return Patchable(content, before + after, state)
    trace = _find_trace(content)
    return Patchable(content, content, BlockState.DAMAGED if trace else BlockState.ABSENT, trace)


def _spell(block: bytes, newline: bytes) -> bytes:
    return (b"\n\n\n" + block).replace(b"\n", newline)


def _find_trace(content: bytes) -> int:
    """The first line, from 1, that names what only the block names; 0 without one."""
    places = [place for trace in _TRACES if (place := content.find(trace)) >= 0]
    return content.count(b"\n", 0, min(places)) + 1 if places else 0


FILES = tuple(f"{module.replace('.', '/')}.py" for module in (LOOP_MODULE, RUNNER_MODULE))
"""Below the folder that holds ``rdagent/``: the modules that the start-up hook waits for."""


class SourceState(Enum):
    """What the whole source has of the block."""

    UNPATCHED = "unpatched"
    PATCHED = "patched"
    HALF = "half-patched"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One of the two files.

    Attributes:
        name: Below the source's root, with slashes.
        text: None where there is no such file of the source's own.
        problem: Why it can neither be patched nor put back.
    """

    name: str
    path: Path
    text: Patchable | None
    problem: Problem | None = None

    @property
    def is_patched(self) -> bool:
        """Whether it attaches the plugin."""
        return self.text is not None and self.text.state in (BlockState.PRESENT, BlockState.OLDER)


@dataclass(frozen=True, slots=True)
class Source:
    """What was found in a folder.

    Attributes:
        root: The folder that holds ``rdagent``.
    """

    root: Path
    files: tuple[SourceFile, ...]

    @property
    def state(self) -> SourceState:
        """What of both files."""
        if any(file.problem for file in self.files):
            return SourceState.UNUSABLE
        patched = [file.is_patched for file in self.files]
        if all(patched):
            return SourceState.PATCHED
        return SourceState.HALF if any(patched) else SourceState.UNPATCHED

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that keeps the patch from being there as a whole, or not at all."""
        problems = tuple(file.problem for file in self.files if file.problem)
        if self.state is not SourceState.HALF:
            return problems
        with_block, without = (
            ", ".join(str(file.path) for file in self.files if file.is_patched is wanted)
            for wanted in (True, False)
        )
        return (
            Problem(
                "patch-half-applied",
                f"The patch is in {with_block} and not in {without}.",
                f"rdagent-sota patch apply --source {self.root} puts it into both, revert takes it out of both.",
            ),
        )

    @property
    def notices(self) -> tuple[Problem, ...]:
        """What works all the same."""
        return tuple(
            Problem(
                "patch-older",
                f"{file.path} has the patch as an older version of this package put it in; it works.",
                f"rdagent-sota patch apply --source {self.root} puts the marked block in its place.",
            )
            for file in self.files
            if file.text is not None and file.text.state is BlockState.OLDER
        )

    def diff(self) -> bytes:
        """What the patch changes in these files, for ``git apply``."""
        return b"".join(
            line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n"
            for file in self.files
            if file.text is not None
            for line in difflib.diff_bytes(
                difflib.unified_diff,
                _lines(file.text.plain),
                _lines(file.text.patched),
                f"a/{file.name}".encode(),
                f"b/{file.name}".encode(),
            )
        )


def inspect_source(folder: Path) -> Source:
    """Look for the block in the source in ``folder``.

    Args:
        folder: A checkout, a folder of installed packages, or the package's own folder.

    Raises:
        HostError: There is no RD-Agent in ``folder``, or it cannot be read.
    """
    try:
        root = _find_root(folder)
        return Source(root, tuple(_inspect_file(root, name) for name in FILES))
    except OSError as error:
        raise HostError(
            "patch-source-unreadable",
            f"{error.filename or folder} cannot be read: {error.strerror or error}.",
            "Check its permissions.",
        ) from error


def apply_patch(source: Source) -> tuple[Path, ...]:
    """Put the block into both files; returns those that were changed, none if it is in both already.

    Raises:
        HostError: A file is missing, a link, or holds a damaged block; nothing was touched.
        SotaError: ``cannot-write``; no file was left changed.
    """
    return _write(source, {file.path: file.text.patched for file in source.files if file.text})


def revert_patch(source: Source) -> tuple[Path, ...]:
    """Take the block out of both files; returns those that were changed, none if it is in neither.

    What is left is byte for byte what was there beside the block. Raises as ``apply_patch`` does.
    """
    return _write(source, {file.path: file.text.plain for file in source.files if file.text})


def _find_root(folder: Path) -> Path:
    resolved = folder.resolve()
    if _is_package(resolved / "rdagent"):
        return resolved
    if resolved.name == "rdagent" and _is_package(resolved):
        return resolved.parent
    raise HostError(
        "patch-source-not-found",
        f"There is no RD-Agent in {folder}." if folder.is_dir() else f"{folder} is not a folder.",
        "Name the checkout of RD-Agent: the folder that holds rdagent/.",
    )


def _is_package(folder: Path) -> bool:
    # It has no __init__.py.
    return (folder / "app" / "cli.py").is_file() and (folder / "core").is_dir()


def _inspect_file(root: Path, name: str) -> SourceFile:
    path = root / name
    # Some installers link to one copy for all environments, which is not this source's to change.
    if path.resolve() != path or not path.is_file():
        reason = "is a link, lies behind one, or is not a file" if path.exists() else "is missing"
        hint = (
            "Put the file there itself" if path.exists() else "Put it back as your version of RD-Agent has it"
        )
        problem = Problem(
            "patch-file-unusable", f"{path} {reason}, so that it cannot be patched.", f"{hint}."
        )
        return SourceFile(name, path, None, problem)
    text = find_block(path.read_bytes())
    if text.state is not BlockState.DAMAGED:
        return SourceFile(name, path, text)
    return SourceFile(
        name,
        path,
        text,
        Problem(
            "patch-block-damaged",
            f"{path}, line {text.trace}: the patch's block is not as this package puts it in.",
            "It was edited, is there twice, or comes from another version. Take its lines out by hand, from "
            "`>>> rdagent-sota-patch` to `<<< rdagent-sota-patch`, then: "
            f"rdagent-sota patch apply --source {root}",
        ),
    )


def _lines(content: bytes) -> list[bytes]:
    # Cut at line feeds alone, as git does; a carriage return is part of its line.
    *lines, last = content.split(b"\n")
    return [*(line + b"\n" for line in lines), *filter(None, [last])]


def _write(source: Source, wanted: dict[Path, bytes]) -> tuple[Path, ...]:
    if problems := [file.problem for file in source.files if file.problem]:
        raise HostError.of(problems)
    before = {file.path: file.text.content for file in source.files if file.text}
    changes = {path: content for path, content in wanted.items() if content != before[path]}
    if problems := list(_unwritable(changes)):
        raise SotaError.of(problems)
    try:
        with ExitStack() as stack:
            # Each is written to the disk before the first takes its place.
            for path, content in changes.items():
                stack.enter_context(replace_atomically(path)).write_bytes(content)
    except BaseException:
        for path, content in changes.items():
            if path.read_bytes() == content:
                with replace_atomically(path) as temporary:
                    temporary.write_bytes(before[path])
        raise
    return tuple(changes)


def _unwritable(paths: Iterable[Path]) -> Iterator[Problem]:
    # Replacing a file asks for its folder's permission alone; a file set read-only is meant to stay.
    for path in paths:
        for place in (path, path.parent):
            if not os.access(place, os.W_OK):
                yield Problem(
                    "cannot-write",
                    f"{place} may not be written to.",
                    "Check its permissions, and whose it is.",
                )

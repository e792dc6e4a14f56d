"""Unified diffs as git writes them: read, and applied exactly or not at all.

A patch made with ``git diff --full-index`` names the content of each file before and after, by git's own hash.
So a file is known as the one that was patched, or is not; hunks are never moved, and no line of context is
forgiven. Libraries for the purpose do both, or end every file with a line feed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_FILE = re.compile(rb"diff --git a/(?P<path>\S+) b/(?P=path)")
_INDEX = re.compile(rb"index (?P<before>[0-9a-f]{40})\.\.(?P<after>[0-9a-f]{40})(?: \d{6})?")
_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@.*")
_NO_NEWLINE = b"\\ No newline at end of file"


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines, each with its line feed, that stand in the place of others.

    Attributes:
        position: Index of the first line among those before; ``new_position`` among those after.
    """

    position: int
    lines: tuple[bytes, ...]
    new_position: int
    new_lines: tuple[bytes, ...]

    def reverse(self) -> Hunk:
        """The hunk that takes this one back."""
        return Hunk(self.new_position, self.new_lines, self.position, self.lines)

    def fits(self, lines: list[bytes]) -> bool:
        """Whether ``lines`` hold exactly what this hunk replaces, at exactly that place."""
        end = self.position + len(self.lines)
        return end <= len(lines) and tuple(lines[self.position : end]) == self.lines


@dataclass(frozen=True, slots=True)
class FilePatch:
    """The change of one file.

    Attributes:
        path: Below the root of the checkout.
        before: git's hash of the content that is changed; ``after`` of what it becomes.
    """

    path: PurePosixPath
    before: str
    after: str
    hunks: tuple[Hunk, ...]

    def reverse(self) -> FilePatch:
        """The patch that takes this one back."""
        return FilePatch(self.path, self.after, self.before, tuple(hunk.reverse() for hunk in self.hunks))

    def misfits(self, content: bytes) -> tuple[int, ...]:
        """The numbers, from 1, of the hunks that do not fit ``content``."""
        lines = content.splitlines(keepends=True)
        return tuple(number for number, hunk in enumerate(self.hunks, 1) if not hunk.fits(lines))

    def apply(self, content: bytes) -> bytes:
        """The content after the change.

        Raises:
            ValueError: ``content`` is not the one that this patch is for, or the patch contradicts itself.
        """
        if git_hash(content) != self.before or self.misfits(content):
            raise ValueError(f"the patch of {self.path} is for another content")
        lines = content.splitlines(keepends=True)
        for hunk in reversed(self.hunks):
            lines[hunk.position : hunk.position + len(hunk.lines)] = hunk.new_lines
        changed = b"".join(lines)
        if git_hash(changed) != self.after:
            raise ValueError(f"the patch of {self.path} does not lead where it says")
        return changed


def git_hash(content: bytes) -> str:
    """The name that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def read_patch(text: bytes) -> tuple[FilePatch, ...]:
    """Read a patch of one or more existing files, with line feeds at its line ends.

    Raises:
        ValueError: It is not in the form of ``git diff --full-index``, or does more than change lines.
    """
    patches = [_read_file(block) for block in _split(text.removesuffix(b"\n").split(b"\n"), _FILE)]
    if not patches:
        raise ValueError("no file in it")
    return tuple(patches)


def _split(lines: Iterable[bytes], start: re.Pattern[bytes]) -> Iterator[list[bytes]]:
    """Blocks that begin with a line of the form ``start``."""
    block: list[bytes] = []
    for line in lines:
        if start.fullmatch(line):
            if block:
                yield block
            block = []
        elif not block:
            raise ValueError(f"not a line to begin with: {line!r}")
        block.append(line)
    if block:
        yield block


def _read_file(block: list[bytes]) -> FilePatch:
    head, body = block[:4], block[4:]
    file, index = _FILE.fullmatch(head[0]), _INDEX.fullmatch(head[1]) if len(head) > 1 else None
    if file is None or index is None:
        raise ValueError(f"no hashes of the contents after {head[0]!r}")
    path = file["path"]
    if head[2:] != [b"--- a/" + path, b"+++ b/" + path]:
        raise ValueError(f"more than a change of lines after {head[0]!r}")
    place = PurePosixPath(path.decode("ascii"))
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"{place} leads out of the folder")
    hunks = tuple(_read_hunk(lines) for lines in _split(body, _HUNK))
    if not hunks:
        raise ValueError(f"nothing is changed in {place}")
    return FilePatch(place, index["before"].decode(), index["after"].decode(), hunks)


def _read_hunk(block: list[bytes]) -> Hunk:
    found = _HUNK.fullmatch(block[0])
    if found is None:
        raise ValueError(f"no hunk: {block[0]!r}")
    old: list[bytes] = []
    new: list[bytes] = []
    sides: tuple[list[bytes], ...] = ()
    for line in block[1:]:
        if line == _NO_NEWLINE:
            for side in sides:
                side[-1] = side[-1].removesuffix(b"\n")
            continue
        try:
            sides = {b" ": (old, new), b"-": (old,), b"+": (new,)}[line[:1]]
        except KeyError:
            raise ValueError(f"not a line of a hunk: {line!r}") from None
        for side in sides:
            side.append(line[1:] + b"\n")
    start, count, new_start, new_count = (1 if number is None else int(number) for number in found.groups())
    if (len(old), len(new)) != (count, new_count):
        raise ValueError(f"{block[0]!r} does not count its lines")
    # Of no lines, a hunk names the line before.
    return Hunk(start - bool(count), tuple(old), new_start - bool(new_count), tuple(new))

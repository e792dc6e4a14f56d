"""The marked block that attaches the plugin to a module of RD-Agent: put into a file's bytes, and taken out again.

It is the same few bytes in every file, put in front of the file's last line end. So the file around it may be any:
edited, of either line end or of both, with or without a line end at its end. Taking out those bytes gives back all
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

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

"""What RD-Agent prints about its loops, line by line (``rdagent/utils/workflow/loop.py``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"Start Loop (\d+), Step (\d+): (\w+)")
_SKIP = re.compile(r"Skip loop (\d+) due to (.*)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a run has begun."""

    loop: int
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Skip:
    """A loop that RD-Agent gives up: it ends without a result."""

    loop: int
    reason: str


def remove_colours(text: str) -> str:
    """The text without the terminal's colour codes."""
    return _ANSI.sub("", text)


def parse_line(line: str) -> Step | Skip | None:
    """What a line of RD-Agent's output tells about its loops; mostly nothing."""
    text = remove_colours(line)
    if found := _SKIP.search(text):
        return Skip(int(found[1]), found[2].strip())
    if found := _STEP.search(text):
        return Step(int(found[1]), int(found[2]), found[3])
    return None

"""Blocks that people put into RD-Agent's runners by hand for what this plugin does; found as text, wherever they are.

As text, because one of them, pasted as it was published, leaves a file that Python does not parse.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FILES = tuple(f"scenarios/qlib/developer/{kind}_runner.py" for kind in ("model", "factor"))

_START = re.compile(
    r"""^[ \t]*(?: (?P<variable>load_sota_from_log|load_sota_from_workspace|load_sota_factors|save_sota_factors)
        [ \t]*=[ \t]* os\.(?:getenv|environ\.get)\([ \t]*['"](?P<switch>[A-Z_]+)['"]
        | def[ \t]+find_workspace_from_log\( )""",
    re.MULTILINE | re.VERBOSE,
)
_END = re.compile(
    r"^[ \t]*if exp\.based_experiments and exp\.based_experiments\[-1\]\.result is None", re.MULTILINE
)
_REPLACES = re.compile(r"based_experiments[ \t]*=[ \t]*\[[ \t]*[A-Za-z_]")


_HINT = "Take the block out (docs/hand-edits.md); other edits can stay."


class Effect(Enum):
    """What a block does when its switch is on."""

    REPLACES = "replaces the experiments that a model is built on, and with them the SOTA factors"
    ADDS = "adds an experiment without factors, which changes no feature"
    SAVES = "writes the factors accepted before each loop to the file that SAVE_SOTA_FACTORS writes"
    NONE = "is called by another block alone"
    BREAKS = "is in a file that Python does not parse, so that RD-Agent cannot start"


@dataclass(frozen=True, slots=True)
class HandEdit:
    """One block.

    Attributes:
        line: Its first line, from 1.
        switch: The variable that switches it on when it is ``true``; empty for a function that others call.
    """

    file: Path
    line: int
    switch: str
    effect: Effect

    def __str__(self) -> str:
        what = f"a block for {self.switch}" if self.switch else "find_workspace_from_log"
        return f"{self.file}, line {self.line}, holds {what} that was put in by hand; it {self.effect.value}"

    def breaks_run(self, variables: Mapping[str, str]) -> bool:
        """Whether a run with these environment variables would not do what the plugin was asked for."""
        if self.effect is Effect.BREAKS:
            return True
        # As the block itself reads it: no other spelling than "true" switches it on.
        return self.effect in (Effect.REPLACES, Effect.SAVES) and variables.get(self.switch) == "true"


def find_hand_edits(source: Path) -> tuple[HandEdit, ...]:
    """The blocks in a source of RD-Agent, in the order of files and lines.

    Args:
        source: A checkout, a folder of installed packages, or the package's own folder ``…/rdagent``.
    """
    package = source / "rdagent" if (source / "rdagent").is_dir() else source
    paths = (package / name for name in _FILES)
    return tuple(edit for path in paths if path.is_file() for edit in _find(path))


def hand_edit_problems(edits: tuple[HandEdit, ...], variables: Mapping[str, str]) -> tuple[Problem, ...]:
    """The blocks that the run of these environment variables would fail by."""
    return tuple(
        Problem("hand-edit", f"{edit}.", _HINT)
        if edit.effect is Effect.BREAKS
        else Problem(
            "hand-edit",
            f"{edit}. {edit.switch} is on, for the plugin as well.",
            f"{_HINT} Or set {edit.switch}=1: the block knows no other word than true, the plugin does.",
        )
        for edit in edits
        if edit.breaks_run(variables)
    )


def hand_edit_suspects(source: Path) -> tuple[Problem, ...]:
    """The blocks in a source in which the plugin does not work, on or off: what makes the difference may be theirs."""
    return tuple(Problem("hand-edit", f"{edit}.", _HINT) for edit in find_hand_edits(source))


def hand_edit_notices(edits: tuple[HandEdit, ...], variables: Mapping[str, str]) -> tuple[Problem, ...]:
    """The blocks beside which the plugin works."""
    return tuple(
        Problem(
            "hand-edit",
            f"{edit}.",
            "Nothing; the plugin works beside it (docs/hand-edits.md).",
        )
        for edit in edits
        if not edit.breaks_run(variables)
    )


def _find(path: Path) -> Iterator[HandEdit]:
    # Opened as text, so that a line is a line whatever it ends in.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    starts = list(_START.finditer(text))
    parses = not starts or _parses(text)
    for start, after in zip_longest(starts, starts[1:]):
        rest = text[start.end() : after.start() if after else len(text)]
        end = _END.search(rest)
        block = rest[: end.start()] if end else rest
        yield HandEdit(
            path,
            text.count("\n", 0, start.start()) + 1,
            start["switch"] or "",
            _effect(start, block) if parses else Effect.BREAKS,
        )


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _effect(start: re.Match[str], block: str) -> Effect:
    if start["variable"] is None:
        return Effect.NONE
    if start["variable"] == "save_sota_factors":
        return Effect.SAVES
    return Effect.REPLACES if _REPLACES.search(block) else Effect.ADDS

"""A made-up RD-Agent of two releases, small enough to see through, and the patches for it."""

from __future__ import annotations

import difflib
from pathlib import Path

from rdagent_sota_patch.patching.diff import git_hash
from rdagent_sota_patch.patching.releases import ReleasePatch

LOOP = "rdagent/components/workflow/rd_loop.py"
RUNNER = "rdagent/scenarios/qlib/developer/model_runner.py"

FILES = {
    "1.0.0": {
        LOOP: b"import asyncio\n\n\nclass RDLoop:\n    one = 1\n    two = 2\n    three = 3\n",
        RUNNER: b"import pandas\n\n\nclass QlibModelRunner:\n    new = True\n\n    def develop(self): ...\n",
    },
    "0.8.0": {
        LOOP: b"import asyncio\n\n\nclass RDLoop:\n    one = 1\n    two = 2\n",
        RUNNER: b"class QlibModelRunner:\n    def develop(self): ...\n",
    },
}
ADDED = b"\n\nattach(__name__)\n"


def write_diff(path: str, before: bytes, after: bytes) -> bytes:
    """A file's part of a patch, as ``git diff --full-index`` writes it for contents that end with a line feed."""
    lines = difflib.unified_diff(
        before.decode().splitlines(keepends=True),
        after.decode().splitlines(keepends=True),
        f"a/{path}",
        f"b/{path}",
    )
    head = f"diff --git a/{path} b/{path}\nindex {git_hash(before)}..{git_hash(after)} 100644\n"
    return (head + "".join(lines)).encode()


def made_up_patches() -> tuple[ReleasePatch, ...]:
    """One patch per release, which adds three lines to the end of both files."""
    return tuple(
        ReleasePatch.parse(
            release, b"".join(write_diff(path, text, text + ADDED) for path, text in files.items())
        )
        for release, files in FILES.items()
    )


def write_source(root: Path, release: str = "1.0.0", newline: bytes = b"\n") -> dict[str, bytes]:
    """Write a release's source below ``root``; returns each file's content."""
    for path in ("rdagent/app/cli.py", "rdagent/core/proposal.py"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    contents = {path: text.replace(b"\n", newline) for path, text in FILES[release].items()}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return contents


def read_source(root: Path) -> dict[str, bytes]:
    """What is in the files now."""
    return {path: (root / path).read_bytes() for path in (LOOP, RUNNER)}

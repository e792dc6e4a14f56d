"""A made-up RD-Agent, small enough to see through."""

from __future__ import annotations

from pathlib import Path

LOOP = "rdagent/components/workflow/rd_loop.py"
RUNNER = "rdagent/scenarios/qlib/developer/model_runner.py"

FILES = {
    LOOP: b"import asyncio\n\n\nclass RDLoop:\n    one = 1\n    two = 2\n",
    RUNNER: b"import pandas\n\n\nclass QlibModelRunner:\n    def develop(self): ...\n",
}

OLDER = b"""\


# Put in by `rdagent-sota patch apply`, taken out by `rdagent-sota patch revert`.
from rdagent_sota_patch.patching.hook import attach_patched  # noqa: E402

attach_patched(__name__)
"""
"""What the patches for 1.0.0 and 0.8.0 added before the block had marks."""


def write_source(root: Path, newline: bytes = b"\n") -> dict[str, bytes]:
    """Write the source below ``root``; returns each file's content."""
    for path in ("rdagent/app/cli.py", "rdagent/core/proposal.py"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    contents = {path: text.replace(b"\n", newline) for path, text in FILES.items()}
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return contents


def read_source(root: Path) -> dict[str, bytes]:
    """What is in the files now."""
    return {path: (root / path).read_bytes() for path in (LOOP, RUNNER)}

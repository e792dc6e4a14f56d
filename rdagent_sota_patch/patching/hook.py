"""What a patched source of RD-Agent calls; checkouts hold this name, so it stays."""

from __future__ import annotations

import sys

from rdagent_sota_patch._startup import attach_after_load, is_disabled


def attach_patched(name: str) -> None:
    """Do for the module ``name``, which calls this on its last line, what the start-up hook would do."""
    if not is_disabled():
        attach_after_load(sys.modules[name])

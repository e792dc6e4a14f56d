"""Where the ``rdagent`` of this Python environment is."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from rdagent_sota_patch.errors import HostError


def scripts_folder() -> Path:
    """Where this environment keeps its programs."""
    return Path(sysconfig.get_path("scripts"))


def find_rdagent() -> Path:
    """The ``rdagent`` program beside the running interpreter: the one that has the plugin.

    Raises:
        HostError: ``host-missing``.
    """
    for folder in (scripts_folder(), Path(sys.executable).parent):
        program = folder / "rdagent"
        if program.is_file():
            return program
    raise HostError(
        "host-missing",
        f"There is no rdagent program in {scripts_folder()}.",
        "Install rdagent-sota-patch into the environment that runs rdagent; for a tested pair, "
        "pip install 'rdagent-sota-patch[demo]'.",
    )

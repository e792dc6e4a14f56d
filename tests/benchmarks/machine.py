"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform

_PACKAGES = ("rdagent", "pyqlib", "pandas", "pyarrow")


def describe_machine() -> dict[str, str]:
    """Versions and processor; the load tells how busy the machine was with other things when it began."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
    }

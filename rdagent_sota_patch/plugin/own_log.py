"""The log folder of the run in this process."""

from __future__ import annotations

from pathlib import Path


def own_log() -> Path:
    """The log folder of the run in this process; a resumed run's is the one it goes on writing."""
    from rdagent.log import rdagent_logger

    return Path(rdagent_logger.storage.path)

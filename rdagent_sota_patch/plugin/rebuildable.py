"""Whether a table that is gone may and can be made again: asked by the doctor, and before any code is run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem, SourceError
from rdagent_sota_patch.plugin.host import factor_data_folder
from rdagent_sota_patch.sessions.records import Signature
from rdagent_sota_patch.settings import parse_switch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdagent_sota_patch.factors.sources import Source

_TRUST = "ALLOW_UNSAFE_LEGACY_PICKLE"
"""RD-Agent's own switch for artifacts whose writer is not proven (``rdagent/core/serialization.py``)."""


def require_rebuildable(source: Source) -> None:
    """Make sure that the source's table, which is gone, can be made again.

    Raises:
        SourceError: It would take code whose writer is not known, or there is no market data.
    """
    problems = tuple(_obstacles(source))
    if problems:
        raise SourceError.of(problems)


def _obstacles(source: Source) -> Iterator[Problem]:
    session = source.session
    if session is None or (session.signature is not Signature.VERIFIED and not _trusts_unsigned()):
        signature = session.signature.value if session else "unknown"
        yield Problem(
            "rebuild-untrusted",
            f"The factor table of {source.path} is gone. Making it again runs the factor code that the log holds, "
            f"and who wrote that is not proven: its signature is {signature}.",
            f"If you trust it, set {_TRUST}=true, or ARTIFACT_SIGNING_KEY_PATH to the key of the machine that "
            "wrote it; if its workspaces were only moved, set SOTA_WORKSPACE_ROOT.",
        )
    folder = factor_data_folder()
    if not folder.is_dir():
        yield Problem(
            "no-market-data",
            f"The factor table of {source.path} is gone, and cannot be made again without market data: "
            f"{folder.absolute()} does not exist.",
            "Set FACTOR_CoSTEER_DATA_FOLDER to the folder with daily_pv.h5.",
        )


def _trusts_unsigned() -> bool:
    return parse_switch(os.environ.get(_TRUST, ""))

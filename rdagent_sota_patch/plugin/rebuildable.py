"""Whether a table that is gone may and can be made again: asked by the doctor, and before any code is run.

Making it again runs the factor code of a log, so that somebody has to vouch for who wrote the log:

- RD-Agent 1.0.0's signature with this machine's key; or
- with an RD-Agent that signs nothing (0.8.0), the log's place: an unsigned log in the folder in which this project's
  runs keep theirs, owned by the user who asks. That RD-Agent executes whatever it finds in such a log as soon as the
  run is resumed; a log from elsewhere is somebody else's, and here it is not run on its word alone; or
- the user, by RD-Agent's own switch for such artifacts.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem, SourceError
from rdagent_sota_patch.plugin.host import factor_data_folder
from rdagent_sota_patch.plugin.traits import installed_traits
from rdagent_sota_patch.sessions.logs import log_roots
from rdagent_sota_patch.sessions.records import Signature
from rdagent_sota_patch.settings import parse_switch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.factor_table.sources import Source
    from rdagent_sota_patch.sessions.records import Session

_TRUST = "ALLOW_UNSAFE_LEGACY_PICKLE"
"""RD-Agent's own switch for artifacts whose writer is not proven (``rdagent/core/serialization.py``)."""


def require_rebuildable(source: Source) -> None:
    """Make sure that the source's table, which is gone, can be made again.

    Raises:
        SourceError: It would take code whose writer is not known, or that this RD-Agent cannot run, or there is no
            market data.
    """
    problems = tuple(_obstacles(source))
    if problems:
        raise SourceError.of(problems)


def is_trusted(session: Session) -> bool:
    """Whether somebody vouches for the code that a log holds."""
    return _is_vouched_for(session) or _trusts_unsigned()


def _obstacles(source: Source) -> Iterator[Problem]:
    session = source.session
    if session is None or not is_trusted(session):
        signature = session.signature.value if session else "unknown"
        yield Problem(
            "rebuild-untrusted",
            f"The factor table of {source.path} is gone. Making it again runs the factor code that the log holds, "
            f"and who wrote that is not proven: its signature is {signature}.",
            f"If you trust it, set {_TRUST}=true, or ARTIFACT_SIGNING_KEY_PATH to the key of the machine that "
            "wrote it; if its workspaces were only moved, set SOTA_WORKSPACE_ROOT.",
        )
    yield from _missing_ability(source)
    folder = factor_data_folder()
    if not folder.is_dir():
        yield Problem(
            "no-market-data",
            f"The factor table of {source.path} is gone, and cannot be made again without market data: "
            f"{folder.absolute()} does not exist.",
            "Set FACTOR_CoSTEER_DATA_FOLDER to the folder with daily_pv.h5.",
        )


def _missing_ability(source: Source) -> Iterator[Problem]:
    """Base features as code are an addition of 1.0.0; an older RD-Agent would leave them out without a word."""
    experiment = source.experiment
    if experiment is None or installed_traits().runs_feature_codes:
        return
    codes = {name for record in (*experiment.based_on, experiment) for name in record.base_feature_codes}
    if codes:
        yield Problem(
            "rebuild-failed",
            f"The factor table of {source.path} is gone, and this RD-Agent cannot make it again: part of it are base "
            f"features as code ({', '.join(sorted(codes))}), which it does not know.",
            "Rebuild it with RD-Agent 1.0.0 (`rdagent-sota save`), and name the saved file (LOAD_SOTA_FACTORS).",
        )


def _is_vouched_for(session: Session) -> bool:
    if session.signature is Signature.VERIFIED:
        return True
    if session.signature is not Signature.UNSIGNED or installed_traits().signs_sessions is not False:
        return False
    log = session.log.resolve()
    roots = {root.resolve() for root in log_roots(os.environ)}
    return log.parent in roots and _is_own(log) and _is_own(session.snapshot)


def _is_own(path: Path) -> bool:
    """Whether ``path`` belongs to the user of this process; without such a notion (Windows), that it is there."""
    try:
        owner = path.stat().st_uid
    except OSError:
        return False
    return not hasattr(os, "getuid") or owner == os.getuid()


def _trusts_unsigned() -> bool:
    return parse_switch(os.environ.get(_TRUST, ""))

"""The code of a run's accepted factors, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.factor_table.sources import origins_of
from rdagent_sota_patch.sessions.locate import locate_sota

if TYPE_CHECKING:
    from rdagent_sota_patch.sessions.records import Session


def factor_codes(session: Session) -> dict[str, str]:
    """Name to code of every factor that the last accepted factor experiment's table may hold.

    Of two factors of one name, the later is taken, as for the table.

    Raises:
        SourceError: It accepted none, or ``factor-code-missing``: all that have no code.
    """
    origins = {origin.name: origin.code for origin in origins_of(locate_sota(session))}
    missing = sorted(name for name, code in origins.items() if code is None)
    if missing:
        raise SourceError(
            "factor-code-missing",
            f"{session.log} does not hold the code of {', '.join(missing)}.",
            "Name the log in which they were accepted.",
        )
    return {name: code for name, code in origins.items() if code is not None}

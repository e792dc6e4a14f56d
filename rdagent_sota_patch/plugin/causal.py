"""``SOTA_REQUIRE_CAUSAL``: every factor in the table must have passed the look-ahead audit, with this very code.

What counts is what ``rdagent-sota audit`` found before, on the market data that this RD-Agent runs factor code on.
Nothing is audited here: a run starts within seconds, or says what to audit first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import Problem, SourceError
from rdagent_sota_patch.plugin.host import factor_data_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rdagent_sota_patch.factor_table.sources import Source


def require_causal(source: Source, names: Iterable[str]) -> None:
    """Make sure that each of the factors is known not to see the future.

    Args:
        source: Where the factors come from.
        names: The table's columns.

    Raises:
        SourceError: ``factor-not-audited``, ``factor-not-causal`` or ``factor-not-judged``, one for every factor
            that is not.
        BundleError: ``market-data-unreadable`` or ``bad-audit``: what is known cannot be compared with the data, or not
            be read.
    """
    # Where causal factors are not asked for, the audit is not loaded.
    from rdagent_sota_patch.lookahead.kept import read_kept_audit
    from rdagent_sota_patch.lookahead.verdicts import find_unproven

    origins = source.describe_factors(tuple(dict.fromkeys(names)))
    codes = {origin.name: origin.code for origin in origins if origin.code}
    kept = read_kept_audit(codes, factor_data_folder())
    problems = [
        *find_unproven(codes, kept),
        *(_unknown(origin.name) for origin in origins if not origin.code),
    ]
    if problems:
        raise SourceError.of(problems)


def _unknown(name: str) -> Problem:
    return Problem(
        "factor-not-audited",
        f"{name}: the source does not hold its code, so that no verdict can be about it.",
        "Name the log that it was mined in (LOAD_SOTA_FROM_LOG), or unset SOTA_REQUIRE_CAUSAL.",
    )

"""The market that RD-Agent's templates name, as far as a factor table has to fit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.factors.checks import Findings
from rdagent_sota_patch.factors.fit import check_fit
from rdagent_sota_patch.factors.universe import read_universe
from rdagent_sota_patch.plugin.traits import installed_traits

if TYPE_CHECKING:
    from rdagent_sota_patch.factors.segments import Segments
    from rdagent_sota_patch.factors.table import FactorTable


def check_market(table: FactorTable, segments: Segments) -> Findings:
    """How the table fits the days and instruments of Qlib's data.

    Nothing is said where that data is not at hand: a back-test in a container may have data of its own.
    """
    template = installed_traits().template
    provider, market = template.scalar("provider_uri"), template.scalar("market")
    if provider is None or market is None:
        return Findings()
    universe = read_universe(Path(provider).expanduser(), market)
    return Findings() if universe is None else check_fit(table, segments, universe)

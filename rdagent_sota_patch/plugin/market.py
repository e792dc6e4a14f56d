"""The market that RD-Agent's templates name, as far as a factor table has to fit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.factors.checks import check_instruments
from rdagent_sota_patch.plugin.traits import installed_traits

if TYPE_CHECKING:
    from rdagent_sota_patch.errors import Problem
    from rdagent_sota_patch.factors.table import FactorTable


def check_market(table: FactorTable) -> list[Problem]:
    """Whether the table and the market share an instrument.

    Nothing is said where the market's list is not at hand: a back-test in a container may have data of its own.
    """
    file = _instruments_file()
    if file is None or not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return check_instruments(table, {line.split("\t", 1)[0] for line in lines if line.strip()})


def _instruments_file() -> Path | None:
    """Qlib's list of the market's instruments: ``<provider>/instruments/<market>.txt``, tab-separated."""
    template = installed_traits().template
    provider, market = template.scalar("provider_uri"), template.scalar("market")
    if provider is None or market is None:
        return None
    return Path(provider).expanduser() / "instruments" / f"{market}.txt"

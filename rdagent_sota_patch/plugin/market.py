"""The market that RD-Agent's templates name, as far as a factor table has to fit it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.factors.checks import check_instruments
from rdagent_sota_patch.host_source import MODEL_TEMPLATE, find_host

if TYPE_CHECKING:
    from rdagent_sota_patch.errors import Problem
    from rdagent_sota_patch.factors.table import FactorTable

_PROVIDER = re.compile(r'^\s*provider_uri:\s*"?([^"\n]+?)"?\s*$', re.MULTILINE)
_MARKET = re.compile(r"^market: &market (\S+)\s*$", re.MULTILINE)


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
    template = find_host().read(MODEL_TEMPLATE)
    provider, market = _PROVIDER.search(template), _MARKET.search(template)
    if provider is None or market is None:
        return None
    return Path(provider[1]).expanduser() / "instruments" / f"{market[1]}.txt"

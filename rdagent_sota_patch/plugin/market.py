"""The market that RD-Agent's templates name, as far as a factor table has to fit it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.factors.checks import check_instruments

if TYPE_CHECKING:
    from rdagent_sota_patch.errors import Problem
    from rdagent_sota_patch.factors.table import FactorTable

_TEMPLATE = Path("scenarios/qlib/experiment/model_template/conf_sota_factors_model.yaml")
_PROVIDER = re.compile(r'^\s*provider_uri:\s*"?([^"\n]+?)"?\s*$', re.MULTILINE)
_MARKET = re.compile(r"^market: &market (\S+)\s*$", re.MULTILINE)


def check_market(table: FactorTable) -> list[Problem]:
    """Whether the table and the market share an instrument.

    Nothing is said where the market's list is not at hand, as with Docker, whose data lies in the container.
    """
    file = _instruments_file()
    if file is None or not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return check_instruments(table, {line.split("\t", 1)[0] for line in lines if line.strip()})


def _instruments_file() -> Path | None:
    """Qlib's list of the market's instruments: ``<provider>/instruments/<market>.txt``, tab-separated."""
    package = importlib.util.find_spec("rdagent")
    if package is None or not package.submodule_search_locations:
        return None
    template = Path(package.submodule_search_locations[0]) / _TEMPLATE
    if not template.is_file():
        return None
    text = template.read_text(encoding="utf-8")
    provider, market = _PROVIDER.search(text), _MARKET.search(text)
    if provider is None or market is None:
        return None
    return Path(provider[1]).expanduser() / "instruments" / f"{market[1]}.txt"

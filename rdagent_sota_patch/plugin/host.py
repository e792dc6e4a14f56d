"""What a run of this RD-Agent will use, read without starting it: version, Alpha features, dates, folders, market."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factor_table.checks import Findings
from rdagent_sota_patch.factor_table.fit import check_fit
from rdagent_sota_patch.factor_table.universe import read_universe
from rdagent_sota_patch.host_source import find_host
from rdagent_sota_patch.plugin.seal import TABLE_STORE, seal_in_force, sealed_place
from rdagent_sota_patch.plugin.traits import installed_traits

if TYPE_CHECKING:
    from rdagent_sota_patch.factor_table.segments import Segments
    from rdagent_sota_patch.factor_table.table import FactorTable


def rdagent_version() -> str:
    """Version of the RD-Agent of this Python; "unknown" where it is run from a folder and not installed.

    Raises:
        HostError: There is no RD-Agent.
    """
    return find_host().version or "unknown"


def alpha_features() -> dict[str, str]:
    """RD-Agent's default Alpha features, name to Qlib expression."""
    return installed_traits().alpha_features()


def model_segments() -> Segments:
    """The dates of the model stage."""
    return installed_traits().segments()


def workspace_root() -> Path:
    """The folder in which this RD-Agent creates its workspaces."""
    from rdagent.core.conf import RD_AGENT_SETTINGS

    return Path(RD_AGENT_SETTINGS.workspace_path)


def table_store() -> Path:
    """The folder for tables made here (converted or rebuilt), named by content; beside RD-Agent's workspaces.

    Not inside them: people list that folder to find the newest workspace. Made if it is not there.

    Raises:
        HostError: It cannot be made.
    """
    seal = seal_in_force()
    # A sealed run's are its own: programs of other runs, and those under another seal, cannot open them.
    folder = (
        workspace_root().parent / TABLE_STORE
        if seal is None
        else seal.data.folder.parent / f"tables-{seal.day}"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            "cannot-write",
            f"{folder} cannot be made: {error.strerror}.",
            "RD-Agent needs to write beside it, too: check WORKSPACE_PATH and its permissions.",
        ) from error
    return folder


def factor_data_folder() -> Path:
    """The folder whose market data factor code is run on.

    ``FACTOR_CoSTEER_DATA_FOLDER``, with its default, as ``rdagent/components/coder/factor_coder/config.py`` reads
    it; importing that takes seconds.
    """
    for name, value in os.environ.items():
        if name.upper() == "FACTOR_COSTEER_DATA_FOLDER":
            return Path(value)
    return Path("git_ignore_folder/factor_implementation_source_data")


def check_market(table: FactorTable, segments: Segments) -> Findings:
    """How the table fits the days and instruments of Qlib's data.

    Nothing is said where that data is not at hand: a back-test in a container may have data of its own.
    """
    template = installed_traits().template
    provider, market = template.scalar("provider_uri"), template.scalar("market")
    if provider is None or market is None:
        return Findings()
    universe = read_universe(sealed_place(Path(provider).expanduser()), market)
    return Findings() if universe is None else check_fit(table, segments, universe)

"""What a run of this RD-Agent will use, read without starting it: version, Alpha features, dates, folders."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
from pathlib import Path

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factors.segments import Segments


def rdagent_version() -> str:
    """Version of the installed RD-Agent.

    Raises:
        HostError: RD-Agent is not installed in this environment.
    """
    try:
        return importlib.metadata.version("rdagent")
    except importlib.metadata.PackageNotFoundError:
        raise HostError(
            "host-missing",
            "rdagent is not installed in this Python environment.",
            "Install rdagent-sota-patch into the environment that runs `rdagent`.",
        ) from None


def alpha_features() -> dict[str, str]:
    """RD-Agent's default Alpha features, name to Qlib expression (``rdagent/utils/qlib.py``, ``ALPHA20``).

    Read from the source text: importing that module takes seconds.
    """
    package = importlib.util.find_spec("rdagent")
    if package is None or not package.submodule_search_locations:
        rdagent_version()
        raise HostError("host-changed", "rdagent has no package folder.")
    source = Path(package.submodule_search_locations[0]) / "utils" / "qlib.py"
    if source.exists():
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "ALPHA20" for target in node.targets
            ):
                features = ast.literal_eval(node.value)
                return {str(name): str(expression) for name, expression in features.items()}
    raise HostError(
        "host-changed",
        f"RD-Agent {rdagent_version()} does not define ALPHA20 in {source}.",
        "See docs/activation.md for the releases that are supported.",
    )


def model_segments() -> Segments:
    """The dates of the model stage (``QLIB_MODEL_*``), as ``QlibModelRunner.develop`` reads them."""
    from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting

    return Segments.parse(ModelBasePropSetting().model_dump())


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
    folder = workspace_root().parent / "sota_tables"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            "cannot-write",
            f"{folder} cannot be made: {error.strerror}.",
            "RD-Agent needs to write beside it, too: check WORKSPACE_PATH and its permissions.",
        ) from error
    return folder


def own_log() -> Path:
    """The log folder of the run in this process; a resumed run's is the one it goes on writing."""
    from rdagent.log import rdagent_logger

    return Path(rdagent_logger.storage.path)


def factor_data_folder() -> Path:
    """The folder whose market data factor code is run on.

    ``FACTOR_CoSTEER_DATA_FOLDER``, with its default, as ``rdagent/components/coder/factor_coder/config.py`` reads
    it; importing that takes seconds.
    """
    for name, value in os.environ.items():
        if name.upper() == "FACTOR_COSTEER_DATA_FOLDER":
            return Path(value)
    return Path("git_ignore_folder/factor_implementation_source_data")

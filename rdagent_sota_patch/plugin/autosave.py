"""``SAVE_SOTA_FACTORS``: after each acceptance in the factor stage, write the accepted set to a file."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.saving import save_source
from rdagent_sota_patch.factor_table.sources import source_of
from rdagent_sota_patch.plugin.rebuild import rebuild_table
from rdagent_sota_patch.sessions.inert import read_inert
from rdagent_sota_patch.sessions.records import Session, Signature
from rdagent_sota_patch.sessions.trace import read_experiments

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.settings import Settings


def save_accepted(loop: Any, snapshot: Path, settings: Settings) -> None:
    """Write the accepted factors, if what was just recorded is an accepted factor experiment.

    A rejected loop leaves the file as it was.

    Args:
        loop: The ``RDLoop``, with the experiment at the end of its history.
        snapshot: The file that this state of the loop was just written to.
        settings: The user's settings.

    Raises:
        SotaError: Under ``SOTA_STRICT``, the file could not be written. The log keeps all that is needed
            to write it later.
    """
    if not loop.trace.hist:
        return
    experiment, feedback = loop.trace.hist[-1]
    if not isinstance(experiment, QlibFactorExperiment) or not feedback.decision:
        return
    try:
        _save(loop, snapshot, settings)
    except SotaError as error:
        if settings.sota_strict:
            raise
        logger.warning(f"SOTA_STRICT is off, so this run goes on.\n{error}")


def _save(loop: Any, snapshot: Path, settings: Settings) -> None:
    source = source_of(_read_live(loop, snapshot), settings.sota_workspace_root)
    # A result from RD-Agent's run cache comes without its table.
    table = save_source(source, source.table or rebuild_table(source), settings.factor_file)
    logger.info(
        f"SOTA factors saved to {settings.factor_file.absolute()}: {', '.join(table.names)}, "
        f"IC {source.metrics.get('IC', 'unknown')}, {table.fingerprint}"
    )


def _read_live(loop: Any, snapshot: Path) -> Session:
    """The running loop as its snapshot shows it, read in the same way; nothing can have changed it in between."""
    return Session(
        log=loop.session_folder.parent,
        snapshot=snapshot,
        signature=Signature.VERIFIED,
        loop_class=type(loop).__name__,
        experiments=read_experiments(read_inert(pickle.dumps(loop), trusted=True)),
    )

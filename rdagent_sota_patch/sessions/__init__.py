"""Read RD-Agent's logs without importing RD-Agent and without running anything a file holds."""

from rdagent_sota_patch.sessions.locate import locate_sota, summarize
from rdagent_sota_patch.sessions.logs import LATEST, find_log, log_roots
from rdagent_sota_patch.sessions.records import (
    ExperimentKind,
    ExperimentRecord,
    Factor,
    Model,
    Session,
    Signature,
)
from rdagent_sota_patch.sessions.snapshots import read_session
from rdagent_sota_patch.sessions.workspaces import find_workspace, workspace_candidates

__all__ = [
    "LATEST",
    "ExperimentKind",
    "ExperimentRecord",
    "Factor",
    "Model",
    "Session",
    "Signature",
    "find_log",
    "find_workspace",
    "locate_sota",
    "log_roots",
    "read_session",
    "summarize",
    "workspace_candidates",
]

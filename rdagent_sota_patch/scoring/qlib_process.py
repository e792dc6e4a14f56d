"""Qlib in a process of its own: ``qlib.init`` rules the whole process it is called in, and Qlib prints."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Mapping

_REQUEST = "request.json"
_LINES = 6


def run_qlib(program: str, folder: Path, request: Mapping[str, Any]) -> str | None:
    """Run a module of this room in ``folder``, where it finds the request and leaves its results.

    Args:
        program: The module's name, such as ``alpha_process``.
        folder: Of the caller's own.
        request: Plain; with what `init_qlib` takes: ``provider``, ``region``, ``jobs``.

    Returns:
        None; where it failed, the last lines that it said.

    Raises:
        BundleError: ``live-extra-missing``.
    """
    if importlib.util.find_spec("qlib") is None:
        raise BundleError(
            "live-extra-missing",
            "This needs Qlib, which is not installed.",
            "pip install 'rdagent-sota-patch[live]'",
        )
    (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", f"rdagent_sota_patch.scoring.{program}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    return "\n".join(done.stderr.strip().splitlines()[-_LINES:]) if done.returncode else None


def init_qlib() -> dict[str, Any]:
    """The request of this process, for which Qlib has been initialized; called in the process alone."""
    request: dict[str, Any] = json.loads(Path(_REQUEST).read_text(encoding="utf-8"))
    import qlib

    qlib.init(
        provider_uri=request["provider"],
        region=request["region"],
        kernels=request["jobs"],
        expression_cache=None,
        dataset_cache=None,
        logging_level=logging.ERROR,
    )
    return request

"""Work in a process of its own: what takes too long, or too much, is ended with all that it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter, ValidationError

from rdagent_sota_patch.errors import ApiError, Problem
from rdagent_sota_patch.results.schemas import ProblemItem

if TYPE_CHECKING:
    from rdagent_sota_patch.results.factor_metrics import Inputs
    from rdagent_sota_patch.results.views import RunView

Stage = Literal["factor", "model"]

_LONGEST_EXPORT = 900.0
"""Seconds; Qlib computes the evidence's Alpha features in it."""
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from rdagent_sota_patch.results.export_process import main; main()"
"""Python puts the folder it is started in before its own modules; the server's own path lacks it."""
_PROBLEMS = TypeAdapter(tuple[ProblemItem, ...])


@dataclass(frozen=True, slots=True)
class BundleRequest:
    """Which bundle of a run.

    Attributes:
        view: The run.
        replay: Whether with its evidence, which is back-test data.
    """

    view: RunView
    stage: Stage
    replay: bool


@dataclass(frozen=True, slots=True)
class FiguresRequest:
    """Figures of the factors of one loop.

    Attributes:
        view: The run.
        inputs: What they are computed from.
        batch: Names that.
    """

    view: RunView
    inputs: Inputs
    batch: str


class Exporter:
    """Runs exports and computations, one at a time, until it is stopped."""

    def __init__(self, roots: tuple[Path, ...], qlib_dir: Path | None) -> None:
        """Nothing runs yet.

        Args:
            roots: The folders of ``SOTA_WORKSPACE_ROOT``.
            qlib_dir: Qlib's data for the evidence; where the training had it, if None.
        """
        self.roots = roots
        self._qlib_dir = qlib_dir
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def export(self, request: BundleRequest, folder: Path) -> None:
        """Make a bundle in ``folder``, which is not there yet.

        Raises:
            ApiError: ``export-took-too-long``, ``export-failed``; what `export_bundle` objects to.
        """
        session = request.view.session
        order = {
            "job": "bundle",
            "snapshot": str(session.snapshot.absolute()),
            "target": str(folder.absolute()),
            "stage": request.stage,
            "replay": request.replay,
            "roots": [str(root.absolute()) for root in self.roots],
            "qlib_dir": None if self._qlib_dir is None else str(self._qlib_dir.absolute()),
        }
        self._run(order, f"bundle of {session.task_id}", "rdagent-sota export")

    def measure(self, request: FiguresRequest, path: Path) -> None:
        """Compute figures of factors into the file ``path``.

        Raises:
            ApiError: ``export-took-too-long``, ``export-failed``; what `measure_factors` objects to.
        """
        session, inputs = request.view.session, request.inputs
        order = {
            "job": "figures",
            "snapshot": str(session.snapshot.absolute()),
            "target": str(path.absolute()),
            "loop": inputs.experiment.loop,
            "table": str(inputs.table.absolute()),
            "data": None if inputs.data is None else str(inputs.data.absolute()),
            "batch": request.batch,
        }
        self._run(order, f"table of figures of {session.task_id}", "rdagent-sota inspect --metrics")

    def _run(self, order: dict[str, Any], what: str, command: str) -> None:
        with self._start() as process:
            try:
                said, told = process.communicate(json.dumps(order).encode(), timeout=_LONGEST_EXPORT)
            except subprocess.TimeoutExpired:
                raise ApiError(
                    "export-took-too-long",
                    f"The {what} was not made within {_LONGEST_EXPORT:.0f} seconds.",
                    f"Run {command} on the server to see what takes so long.",
                ) from None
            finally:
                self._end()
        problems = _parse(said)
        if problems:
            raise ApiError.of(problems)
        if problems is None or process.returncode:
            last = told.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise ApiError(
                "export-failed",
                f"Making the {what} ended with {process.returncode}: {''.join(last)}",
                f"Run {command} on the server to see why.",
            )

    def stop(self) -> None:
        """End what runs; nothing else is begun."""
        self._stopped = True
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise ApiError(
                    "server-stopping", "The server is being stopped.", "Ask again when it is back."
                )
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *filter(None, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            return self._process

    def _end(self) -> None:
        """With all that the process started: Qlib's workers, a factor's jail."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _parse(said: bytes) -> list[Problem] | None:
    """What the process reported: problems, or none; None when it ended before it could."""
    try:
        items = _PROBLEMS.validate_json(said)
    except ValidationError:
        return None
    return [Problem(item.slug, item.message, item.hint) for item in items]

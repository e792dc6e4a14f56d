"""A sandbox whose programs run in forks of Pythons that have imported already, unless a run asks for a cold start."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_patch.demo.sandbox import Sandbox
from tests.integration.warm import COLD, warm_python

COLD_START = {COLD: "all"}
"""Settings of a run that is to start as a user's does, with all its back-tests."""

COLD_COMMAND = {COLD: "command"}
"""Settings of a run whose back-tests are warm."""

_HOST = ("rdagent.app.cli",)
_QLIB = (
    *("qlib.cli.run", "qlib.contrib.model.gbdt", "qlib.contrib.model.pytorch_general_nn", "torch", "tables"),
    *(
        "qlib.contrib.data.handler",
        "qlib.contrib.data.loader",
        "qlib.contrib.evaluate",
        "qlib.contrib.strategy",
    ),
    *("qlib.workflow.record_temp", "mlflow.store.tracking.file_store", "pyarrow.parquet"),
)


@dataclass(frozen=True, slots=True)
class Warm:
    """What a command begins with that is to run in a warm Python: one for RD-Agent, one for its back-tests."""

    host: list[str]
    qlib: list[str]


class WarmSandbox(Sandbox):
    """A sandbox in which ``rdagent``, ``python`` and ``qrun`` are warm.

    Attributes:
        warm: The Pythons that it uses; its own, if it is not given others'. They import while other things begin.
    """

    warm: Warm

    def __init__(self, folder: Path, warm: Warm | None = None, **options: Any) -> None:
        super().__init__(folder, **options)
        self._given = warm
        self._own = ExitStack()

    def __enter__(self) -> WarmSandbox:
        if self._given is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            environment = self.environment("warm", {"RDAGENT_SOTA_DISABLE": "true"})
            self.warm = Warm(
                *(
                    self._own.enter_context(warm_python(modules, environment, self.folder / f"warm-{name}"))
                    for name, modules in (("host", _HOST), ("qlib", _QLIB))
                )
            )
        else:
            self.warm = self._given
        Sandbox.__enter__(self)
        return self

    def __exit__(self, *error: Any) -> None:
        Sandbox.__exit__(self, *error)
        self._own.close()

    def rdagent(self) -> list[str]:
        """RD-Agent's program in the warm Python, or as it is."""
        return [str(self.folder / "bin" / "warm-rdagent"), *Sandbox.rdagent(self)]

    def _furnish(self) -> None:
        Sandbox._furnish(self)
        cold = f"exec {shlex.quote(sys.executable)} "
        for program in ("python", "qrun"):
            path = self.folder / "env" / "bin" / program
            start, command, rest = path.read_text(encoding="utf-8").partition(cold)
            assert command
            warm = f'[ "${COLD}" = all ] || exec {shlex.join(self.warm.qlib)} {rest}'
            path.write_text(f"{start}{warm}{cold}{rest}", encoding="utf-8")
        rdagent = self.folder / "bin" / "warm-rdagent"
        warm = f'[ -n "${COLD}" ] || exec {shlex.join(self.warm.host)} "$@"\n'
        rdagent.write_text(f'#!/bin/sh\n{warm}exec "$@"\n', encoding="utf-8")
        rdagent.chmod(0o755)

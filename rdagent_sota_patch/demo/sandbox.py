"""A folder in which the real ``rdagent`` runs offline: private HOME, project, data and programs.

What RD-Agent needs from its surroundings is put in place here and nowhere else: the LLM is scripted,
``conda`` is a stand-in, the market is synthetic. RD-Agent, Qlib and their back-tests are the real ones, in
subprocesses. Nothing of the user's own environment gets in except what names the interpreter's libraries.
"""

from __future__ import annotations

import os
import site
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rdagent_sota_patch.demo.conda import QLIB_ENVIRONMENT, write_conda
from rdagent_sota_patch.demo.llm import MODEL_NAME, ScriptedLlm
from rdagent_sota_patch.demo.market import MarketSpec, simulate_market, write_factor_data, write_qlib_data
from rdagent_sota_patch.demo.runs import RunResult, follow
from rdagent_sota_patch.demo.years import Segments, host_market, host_segments
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sessions.signature import find_key
from rdagent_sota_patch.sessions.snapshots import read_session
from rdagent_sota_patch.stages.program import find_rdagent, scripts_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from rdagent_sota_patch.demo.replies import Screenplay
    from rdagent_sota_patch.sessions.records import Session
    from rdagent_sota_patch.stages.output import Step

Command = Literal["fin_factor", "fin_model", "fin_quant"]

_KEPT = ("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(slots=True, eq=False)
class Sandbox(AbstractContextManager["Sandbox"]):
    """The folder, its LLM server while the context is open, and the way to run ``rdagent`` in it.

    Attributes:
        folder: Made if needed; the market in it is written once.
        market: What the synthetic market is like; must cover ``segments``.
        segments: The dates of all runs; RD-Agent 0.8.0 has its own, and takes no others.
    """

    folder: Path
    market: MarketSpec = field(default_factory=host_market)
    segments: Segments = field(default_factory=host_segments)
    llm: ScriptedLlm = field(default_factory=ScriptedLlm)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()

    @property
    def home(self) -> Path:
        """The private HOME: Qlib's data, RD-Agent's signing key."""
        return self.folder / "home"

    @property
    def project(self) -> Path:
        """The working directory of all runs: logs, workspaces, RD-Agent's cache."""
        return self.folder / "project"

    @property
    def logs(self) -> Path:
        """Where runs keep their log folders."""
        return self.project / "log"

    @property
    def signing_key(self) -> Path:
        """The key that RD-Agent signs its sessions with here; made by its first run."""
        return self.home / ".rdagent" / "artifact_signing.key"

    @property
    def factor_data(self) -> Path:
        """Folder of the ``daily_pv.h5`` that factor code reads."""
        return self.folder / "data" / "full"

    @property
    def qlib_data(self) -> Path:
        """Qlib's provider folder, where RD-Agent's templates look for it."""
        return self.home / ".qlib" / "qlib_data" / "cn_data"

    def __enter__(self) -> Sandbox:
        self._furnish()
        self.llm.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.llm.stop()

    def _furnish(self) -> None:
        for folder in (self.home, self.logs, self.folder / "tmp", self.folder / "output"):
            folder.mkdir(parents=True, exist_ok=True)
        write_conda(self.folder / "bin", self.folder / "env")
        stamp = self.folder / "data" / "market.txt"
        if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == repr(self.market)):
            market = simulate_market(self.market)
            write_qlib_data(market, self.qlib_data)
            write_factor_data(market, self.factor_data, self.folder / "data" / "debug")
            stamp.write_text(repr(self.market), encoding="utf-8")

    def environment(self, run: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The complete environment of the run named ``run``; ``extra`` is added last."""
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        if site.ENABLE_USER_SITE:
            # HOME changes below; without this, packages installed with --user would be lost.
            kept["PYTHONUSERBASE"] = site.getuserbase()
        stand_ins = (self.folder / "bin", self.folder / "env" / "bin")
        path = (*stand_ins, Path(sys.executable).parent, scripts_folder(), "/usr/bin", "/bin")
        return {
            **kept,
            "HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": os.pathsep.join(str(entry) for entry in path),
            "CONDA_DEFAULT_ENV": QLIB_ENVIRONMENT,
            "OPENAI_API_KEY": run,
            "OPENAI_API_BASE": self.llm.url,
            "CHAT_MODEL": f"openai/{MODEL_NAME}",
            "EMBEDDING_MODEL": f"openai/{MODEL_NAME}",
            "CHAT_STREAM": "False",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            # MLflow 3 refuses the file store, which Qlib uses, unless told that it is wanted.
            "MLFLOW_ALLOW_FILE_STORE": "true",
            "FACTOR_CoSTEER_DATA_FOLDER": str(self.factor_data),
            "FACTOR_CoSTEER_DATA_FOLDER_DEBUG": str(self.folder / "data" / "debug"),
            # By name: RD-Agent puts it into a shell command without quotes.
            "FACTOR_CoSTEER_PYTHON_BIN": "python",
            # The templates ask for 20 threads; on a small machine those only get in each other's way.
            "OMP_THREAD_LIMIT": str(os.cpu_count() or 1),
            "OMP_WAIT_POLICY": "passive",
            # Qlib's recorder keeps `git diff` of the current folder; a repository around this one is not it.
            "GIT_CEILING_DIRECTORIES": str(self.folder.parent),
            "PYTHONUNBUFFERED": "1",
            "LOG_TRACE_PATH": str(self.logs / run),
            **self.segments.variables(),
            **(extra or {}),
        }

    def session(self, log: Path) -> Session:
        """What a run's log says, checked against the key of this sandbox, not against the user's own."""
        key = find_key({"ARTIFACT_SIGNING_KEY_PATH": str(self.signing_key)}, self.project / ".env")
        return read_session(log, key=key)

    def run(
        self,
        command: Command,
        *,
        loops: int,
        name: str,
        resume: Path | None = None,
        environment: Mapping[str, str] | None = None,
        screenplay: Screenplay | None = None,
        on_step: Callable[[Step], None] | None = None,
        timeout: float = 900.0,
        check: bool = True,
    ) -> RunResult:
        """Run ``rdagent COMMAND --loop-n LOOPS`` and wait for it.

        Args:
            loops: Loops in all; when resuming, those already done count.
            name: Name of the run: of its log folder, and its own place in the LLM's script.
            resume: A log folder's ``__session__`` to go on from.
            environment: Variables added to, or put in the place of, the sandbox's.
            screenplay: The LLM's script for this run, where the server's default will not do.
            on_step: Called from this thread for each step that begins.
            check: Whether a failed run or a skipped loop is an error.

        Raises:
            HostError: ``rdagent`` is not installed beside the running interpreter.
            SotaError: The run failed, or took longer than ``timeout`` seconds.
            ValueError: There is a run of that name and it is not the one to resume.
        """
        log = self.logs / name
        if resume is None and log.exists():
            raise ValueError(f"{log} is another run's log; two runs in one log cannot be told apart")
        arguments = [str(find_rdagent()), command, "--loop-n", str(loops)]
        if resume is not None:
            arguments += ["--path", str(resume)]
        if screenplay is not None:
            self.llm.direct(name, screenplay)
        output_file = self.folder / "output" / f"{name}-{time.time_ns()}.txt"
        result = follow(
            arguments,
            cwd=self.project,
            variables=self.environment(name, environment),
            log=log,
            output_file=output_file,
            on_step=on_step,
            timeout=timeout,
        )
        if check and result.failure:
            raise SotaError(
                "run-failed",
                f"rdagent {command} ({name}) failed: {result.failure}. It ended with:\n{result.tail()}",
                f"Its whole output is in {output_file}, its log in {log}.",
            )
        return result

"""A private HOME, project and data to run rdagent in, with stand-ins for conda and qrun, one command at a time.

RD-Agent runs back-tests in a conda environment called ``rdagent4qlib`` (``rdagent/utils/env.py``:
``QlibCondaConf``, ``QlibCondaEnv``, ``CondaConf``). It asks ``conda env list`` for the name and
``conda run -n NAME env`` for the environment's PATH. Here both answers lead to the running interpreter's own
environment, where Qlib is installed.

Why there is a ``qrun`` as well: MLflow's file store appends to a metric's file by opening it, which creates
it empty, and writing afterwards (``mlflow/utils/file_utils.py``: ``append_to``). Qlib logs metrics from a
second thread (``qlib/workflow/recorder.py``: ``AsyncCaller``) while its main thread saves artifacts, and for
each artifact MLflow reads the whole run back. When the read falls into the gap, the back-test dies with
"Metric 'Rank ICIR' is malformed. No data found", about once in ten runs, and RD-Agent skips the loop. The
``qrun`` written here is Qlib's own, with one lock around the file store's reads and writes: the gap can then
not be seen. A network's batches come from as many processes as there are cores, where RD-Agent's templates ask for 20,
which Qlib starts again for each pass over the data; batches and scores are the same. Nothing else is different.
"""

from __future__ import annotations

import os
import shlex
import signal
import site
import stat
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Literal

from rdagent_sota_patch.demo.llm import MODEL_NAME, ScriptedLlm
from rdagent_sota_patch.demo.synthetic_market import (
    MarketSpec,
    Segments,
    host_market,
    host_segments,
    simulate_market,
    write_factor_data,
    write_qlib_data,
)
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sessions.signature import find_key
from rdagent_sota_patch.sessions.snapshots import read_session
from rdagent_sota_patch.stages.both import find_rdagent, scripts_folder
from rdagent_sota_patch.stages.progress import Skip, Step, parse_line, remove_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from rdagent_sota_patch.demo.llm import Screenplay
    from rdagent_sota_patch.sessions.records import Session

QLIB_ENVIRONMENT = "rdagent4qlib"

_CONDA = """\
    #!/bin/sh
    # Stand-in for conda: one environment, {name}, which is {prefix}.
    case "$1 $2" in
    "env list")
        echo "# conda environments:"
        echo "{name}  "{prefix}
        exit 0 ;;
    "run -n")
        if [ "$3" != {name} ]; then
            echo "conda stand-in: no environment named $3" >&2
            exit 1
        fi
        shift 3 ;;
    *)
        echo "conda stand-in: only 'env list' and 'run -n {name} [--no-capture-output] COMMAND' are known" >&2
        exit 2 ;;
    esac
    if [ "$1" = "--no-capture-output" ]; then shift; fi
    PATH={bins}:"$PATH"
    export PATH
    exec "$@"
    """

_QRUN = """\
    # Qlib's qrun, with MLflow's file store guarded against its own readers, and few processes for batches (see the
    # demo's sandbox.py).
    import functools
    import os
    import sys
    import threading

    from mlflow.store.tracking.file_store import FileStore
    from torch.utils.data import DataLoader

    from qlib.cli.run import run

    guard = threading.RLock()


    def guarded(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            with guard:
                return method(*args, **kwargs)

        return call


    for name in ("get_run", "log_metric", "log_batch", "log_param", "set_tag", "update_run_info"):
        setattr(FileStore, name, guarded(getattr(FileStore, name)))

    construct = DataLoader.__init__


    def with_few_processes(self, *args, num_workers=0, **kwargs):
        construct(self, *args, num_workers=min(num_workers, os.cpu_count() or 1), **kwargs)


    DataLoader.__init__ = with_few_processes

    if __name__ == "__main__":
        sys.exit(run())
    """


def write_conda(bin_folder: Path, prefix: Path) -> None:
    """Write ``conda`` into ``bin_folder`` and the environment it knows of at ``prefix``.

    The environment holds ``python`` and ``qrun``; its other programs are those beside the interpreter.
    """
    environment_bin = prefix / "bin"
    python = shlex.quote(sys.executable)
    bins = ":".join(shlex.quote(str(folder)) for folder in (environment_bin, Path(sys.executable).parent))
    conda = dedent(_CONDA).format(name=QLIB_ENVIRONMENT, prefix=shlex.quote(str(prefix)), bins=bins)
    _write_program(bin_folder / "conda", conda)
    qrun = prefix / "lib" / "qrun.py"
    qrun.parent.mkdir(parents=True, exist_ok=True)
    qrun.write_text(dedent(_QRUN), encoding="utf-8")
    # Shell scripts rather than a #! line with the interpreter: that one ends at a space and is short.
    _write_program(environment_bin / "python", f'#!/bin/sh\nexec {python} "$@"\n')
    _write_program(environment_bin / "qrun", f'#!/bin/sh\nexec {python} {shlex.quote(str(qrun))} "$@"\n')


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


_TAIL_LINES = 30


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one ``rdagent`` command ended.

    Attributes:
        log: The run's log folder, which holds ``__session__``.
        output_file: Everything it printed.
        skipped: Loops that RD-Agent gave up, with its reason.
    """

    command: tuple[str, ...]
    exit_code: int
    log: Path
    output_file: Path
    seconds: float
    skipped: tuple[tuple[int, str], ...] = ()

    @property
    def output(self) -> str:
        """Everything the run printed, without colours."""
        return remove_colours(self.output_file.read_text(encoding="utf-8", errors="replace"))

    @property
    def failure(self) -> str:
        """What went wrong, in one line; empty when all loops were run to their end."""
        if self.exit_code:
            return f"it ended with exit code {self.exit_code}"
        return "; ".join(f"RD-Agent skipped loop {loop}: {reason[:200]}" for loop, reason in self.skipped)

    def tail(self) -> str:
        """The last lines of the output."""
        return "\n".join(self.output.splitlines()[-_TAIL_LINES:])


def follow(
    command: Sequence[str],
    *,
    cwd: Path,
    variables: Mapping[str, str],
    log: Path,
    output_file: Path,
    on_step: Callable[[Step], None] | None,
    timeout: float,
) -> RunResult:
    """Run ``command`` to its end, writing down what it prints and reporting its steps.

    Raises:
        SotaError: ``run-failed`` when it took longer than ``timeout`` seconds; it is then stopped.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    timed_out = threading.Event()

    def stop_late_run() -> None:
        timed_out.set()
        _kill_group(process)

    timer = threading.Timer(timeout, stop_late_run)
    timer.start()
    skipped: list[tuple[int, str]] = []
    try:
        assert process.stdout is not None
        with process.stdout, output_file.open("wb") as out:
            for line in process.stdout:
                out.write(line)
                out.flush()
                event = parse_line(line.decode("utf-8", errors="replace"))
                if isinstance(event, Skip):
                    skipped.append((event.loop, event.reason))
                elif isinstance(event, Step) and on_step is not None:
                    on_step(event)
        exit_code = process.wait()
    finally:
        timer.cancel()
        _kill_group(process)
    if timed_out.is_set():
        raise SotaError(
            "run-failed",
            f"{' '.join(command)} was stopped after {timeout:.0f} seconds.",
            f"What it printed until then is in {output_file}.",
        )
    return RunResult(
        command=tuple(command),
        exit_code=exit_code,
        log=log,
        output_file=output_file,
        seconds=time.monotonic() - started,
        skipped=tuple(skipped),
    )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the command and whatever it started and left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


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

    def rdagent(self) -> list[str]:
        """The start of each run's command.

        Raises:
            HostError: ``rdagent`` is not installed beside the running interpreter.
        """
        return [str(find_rdagent())]

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
        arguments = [*self.rdagent(), command, "--loop-n", str(loops)]
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

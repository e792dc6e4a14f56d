"""One stage: a guarded subprocess, begun, gone on with, or done already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.stages.progress import Progress, Watcher, find_resume_point, measure, remove_colours
from rdagent_sota_patch.stages.state import StageName, StageState, new_log, output_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_GUARD = Path(__file__).with_name("guard.py")


def follow(
    command: Sequence[str],
    *,
    cwd: Path,
    variables: Mapping[str, str],
    output_file: Path,
    on_line: Callable[[str], None],
    lock: int,
) -> int:
    """Run ``command`` to its end and return its exit code; add what it prints to ``output_file``.

    When this process ends first, however, so does the command. It is killed rather than asked to stop: a
    back-test that dies of the same Ctrl-C would go down in the session as a loop without a result.

    Args:
        on_line: Called from this thread with each line.
        lock: Descriptor of the run's lock, held until the command is gone as well.

    Raises:
        SotaError: ``cannot-write`` when there is no place for the output.
    """
    try:
        out = output_file.open("ab")
    except OSError as error:
        raise SotaError(
            "cannot-write",
            f"Cannot write {output_file}: {error.strerror}.",
            "Check the folder's permissions.",
        ) from error
    with out:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *command],
            cwd=cwd,
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                out.flush()
                on_line(line.decode("utf-8", errors="replace"))
            return process.wait()
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):  # All of it has ended already.
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


_COMMANDS = {StageName.FACTOR: "fin_factor", StageName.MODEL: "fin_model"}
_TAIL_LINES = 30
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Means:
    """What both stages work with.

    Attributes:
        rdagent: The program.
        observe: Called with each look at a stage's progress.
        lock: Descriptor of the run's lock.
    """

    rdagent: Sequence[str]
    observe: Callable[[Progress], None]
    lock: int


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage is to do.

    Attributes:
        folder: The run's folder.
        variables: What is set for its ``rdagent`` beside the environment and ``LOG_TRACE_PATH``.
        duration: RD-Agent may then stop before all loops are done.
    """

    name: StageName
    folder: Path
    loops: int
    variables: Mapping[str, str]
    duration: str | None = None

    @property
    def output_file(self) -> Path:
        """Where all its output goes."""
        return output_file(self.folder, self.name)

    def run(self, state: StageState, means: Means, keep: Callable[[StageState], None]) -> StageState:
        """Bring the stage to its end from wherever it is.

        RD-Agent counts ``--loop-n`` from a run's first loop, so that going on takes the number first given.

        Args:
            keep: Called with each new state before anything is done on its strength.

        Raises:
            SotaError: ``stage-failed``.
        """
        if state.done and state.log is not None:
            means.observe(replace(measure(state.log, self.name, self.loops), done=True))
            return state
        point = find_resume_point(state.log) if state.log is not None else None
        log = state.log if state.log is not None and point is not None else new_log(self.folder, self.name)
        keep(StageState(log=log))
        progress = measure(log, self.name, self.loops)
        means.observe(progress)
        # A run that was killed between its last loop and this program's next word has nothing left to do.
        if progress.finished < self.loops:
            progress = self._start(log, point, progress, means)
        done = StageState(log=log, done=True)
        keep(done)
        means.observe(replace(progress, done=True))
        return done

    def _start(self, log: Path, point: Path | None, begun: Progress, means: Means) -> Progress:
        command = [*means.rdagent, _COMMANDS[self.name], "--loop-n", str(self.loops)]
        if self.duration is not None:
            command += ["--all-duration", self.duration]
        if point is not None:
            command += ["--path", str(point)]
        code = follow(
            command,
            cwd=Path.cwd(),
            variables=_environment({**self.variables, "LOG_TRACE_PATH": str(log)}),
            output_file=self.output_file,
            on_line=Watcher(log, begun, means.observe).read,
            lock=means.lock,
        )
        if code:
            raise self._failed(log, f"ended with exit code {code}")
        progress = measure(log, self.name, self.loops)
        if progress.finished < self.loops and self.duration is None:
            raise self._failed(log, f"ended after {progress.finished} of {self.loops} loops")
        return progress

    def _failed(self, log: Path, how: str) -> SotaError:
        return SotaError(
            "stage-failed",
            f"rdagent {_COMMANDS[self.name]} {how}. Its last lines:\n{tail(self.output_file)}",
            f"Its whole output is in {self.output_file}, its log in {log}. "
            f"To go on: rdagent-sota run --resume {self.folder}",
        )


def tail(path: Path) -> str:
    """The last lines of an output file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(remove_colours(text).splitlines()[-_TAIL_LINES:])


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # RD-Agent's settings and ours take names in any case; the user's log_trace_path would be set beside ours.
    kept = {name: value for name, value in os.environ.items() if name.upper() not in variables}
    return {**kept, "PYTHONUNBUFFERED": "1", **variables}

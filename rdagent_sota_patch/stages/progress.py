"""How far a stage is, by its log and its output, and where to go on from."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import SnapshotError, SourceError
from rdagent_sota_patch.sessions.records import ExperimentKind
from rdagent_sota_patch.sessions.snapshots import SESSION_FOLDER, list_snapshots, read_session
from rdagent_sota_patch.stages.state import StageName

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

_STEP = re.compile(r"Start Loop (\d+), Step (\d+): (\w+)")
_SKIP = re.compile(r"Skip loop (\d+) due to (.*)")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Step:
    """A step that a run has begun."""

    loop: int
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Skip:
    """A loop that RD-Agent gives up: it ends without a result."""

    loop: int
    reason: str


def remove_colours(text: str) -> str:
    """The text without the terminal's colour codes."""
    return _ANSI.sub("", text)


def parse_line(line: str) -> Step | Skip | None:
    """What a line of RD-Agent's output tells about its loops; mostly nothing."""
    text = remove_colours(line)
    if found := _SKIP.search(text):
        return Skip(int(found[1]), found[2].strip())
    if found := _STEP.search(text):
        return Step(int(found[1]), int(found[2]), found[3])
    return None


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at a stage.

    Attributes:
        loops: How many loops were asked for.
        finished: How many are in the history, skipped ones among them.
        best_ic: Of the results so far; None before the first.
        step: The step begun last; None before the first and after the last.
    """

    stage: StageName
    loops: int
    finished: int = 0
    accepted: int = 0
    skipped: int = 0
    best_ic: float | None = None
    step: Step | None = None
    done: bool = False


def experiments_of(session: Session, stage: StageName) -> tuple[ExperimentRecord, ...]:
    """The stage's own loops; what a model stage inherited from a factor stage has negative loop numbers."""
    other = ExperimentKind.MODEL if stage is StageName.FACTOR else ExperimentKind.FACTOR
    return tuple(one for one in session.experiments if one.kind is not other and one.loop >= 0)


def measure(log: Path, stage: StageName, loops: int) -> Progress:
    """The stage's progress by its log: nothing while there is no snapshot that can be read.

    Raises:
        SotaError: As `read_session`, where it is not that a stage has only just begun, or was killed as it
            wrote its first snapshot.
    """
    try:
        experiments = experiments_of(read_session(log), stage)
    except SourceError as error:
        if error.slug not in ("log-not-found", "session-not-found", "no-snapshots", "no-readable-snapshot"):
            raise
        experiments = ()
    ics = [ic for one in experiments if math.isfinite(ic := one.metrics.get("IC", math.nan))]
    return Progress(
        stage,
        loops,
        finished=len(experiments),
        accepted=sum(one.decision is True for one in experiments),
        skipped=sum(not one.metrics for one in experiments),
        best_ic=max(ics, default=None),
    )


def find_resume_point(log: Path) -> Path | None:
    """The newest whole snapshot of a log, to go on from; None where there is none.

    A run that was killed as it wrote a snapshot leaves part of one, and RD-Agent, given the folder, would
    take just that (``LoopBase.load``).

    Raises:
        SnapshotError: A whole snapshot is altered, or none of RD-Agent's.
    """
    folder = log / SESSION_FOLDER
    if not folder.is_dir():
        return None
    snapshots, _ = list_snapshots(folder)
    for snapshot in snapshots:
        try:
            return read_session(snapshot.path).snapshot
        except SnapshotError as error:
            if error.slug != "snapshot-unreadable":
                raise
    return None


class Watcher:
    """Turns a stage's output lines into looks at its progress."""

    def __init__(self, log: Path, begun: Progress, observe: Callable[[Progress], None]) -> None:
        self._log = log
        self._seen = begun
        self._observe = observe

    def read(self, line: str) -> None:
        """Take in one line; what it tells of the stage's loops is passed on."""
        event = parse_line(line)
        if event is None or isinstance(event, Skip):
            return
        self._look(event)

    def _look(self, step: Step) -> None:
        # Half-written at this moment, perhaps; if it stays so, the stage says it at its end.
        with suppress(SnapshotError, SourceError):
            self._seen = measure(self._log, self._seen.stage, self._seen.loops)
        self._seen = replace(self._seen, step=step)
        self._observe(self._seen)


def skip_reasons(output_file: Path) -> dict[int, str]:
    """Why RD-Agent gave loops up, by loop; of one that was run again after a resume, the last time."""
    try:
        lines = output_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    events = (parse_line(line) for line in lines)
    return {event.loop: event.reason for event in events if isinstance(event, Skip)}

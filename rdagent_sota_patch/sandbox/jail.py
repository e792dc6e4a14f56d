"""A program in a private folder that it cannot leave: furnished, run, its results taken, removed."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.interpreter import DEVICES, python_command, readable_paths
from rdagent_sota_patch.sandbox.launcher import Order
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.probe import what_confines
from rdagent_sota_patch.sandbox.supervision import Ended, Ending, supervise

if TYPE_CHECKING:
    from typing_extensions import Self


def furnish(
    work: Path, texts: Mapping[str, str], inputs: Mapping[str, Path], own_copies: Mapping[str, Path]
) -> list[str]:
    """Make the working folder with what belongs in it; return what must be readable outside it."""
    work.mkdir(mode=0o700)
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8", errors="surrogatepass")
    copies = dict(own_copies)
    readable: list[str] = []
    for name, source in inputs.items():
        if what_confines().files:
            real = source.resolve(strict=True)
            (work / name).symlink_to(real)
            readable.append(str(real))
        else:  # Nothing else keeps it from being changed.
            copies[name] = source
    for name, source in copies.items():
        _copy(source, work / name)
    return readable


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def remove_folder(folder: Path) -> None:
    """Remove what a program left: however deep it is, and whatever rights its folders were given.

    Folders are moved to the top before they are emptied, so that no path becomes too long.
    """
    prefix = f".{secrets.token_hex(8)}-"
    waiting, emptied = [folder], []
    while waiting:
        current = waiting.pop()
        emptied.append(current)
        # What cannot be removed stays in the system's folder for temporary files; the run is over either way.
        with suppress(OSError):
            for entry in list(os.scandir(current)):
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink()
                    continue
                Path(entry.path).chmod(0o700)
                moved = folder / f"{prefix}{len(emptied) + len(waiting)}"
                Path(entry.path).rename(moved)
                waiting.append(moved)
    for path in reversed(emptied):
        with suppress(OSError):
            path.rmdir()


def take_outputs(work: Path, names: Sequence[str], place: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Move the expected files out of the working folder, where nothing runs any more."""
    taken: dict[str, Path] = {}
    unfit: dict[str, str] = {}
    for name in names:
        try:
            found = (work / name).lstat()
        except FileNotFoundError:
            unfit[name] = "it is missing"
            continue
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            unfit[name] = "it is not a plain file"
            continue
        taken[name] = place / name
        (work / name).chmod(0o600)  # It may have been made without any right.
        (work / name).rename(taken[name])
    return taken, unfit


_PROGRAM = "program.py"
_THREADS = 512 + 16 * (os.cpu_count() or 1)  # Numerical libraries start one pool of as many as cores each.


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run in the jail.

    Attributes:
        ended: How it ended, with what it printed.
        outputs: The expected files that it left as plain files, by name; they live as long as the jail.
        unfit: Why an expected file is not among them, by name: missing, or a link, or no file.
    """

    ended: Ended
    outputs: Mapping[str, Path]
    unfit: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ran:
    """One run that finished and left everything it should.

    Attributes:
        outputs: The files it left, by name; they live as long as the jail.
        log: What it printed, bounded.
        seconds: How long it ran.
    """

    outputs: Mapping[str, Path]
    log: str
    seconds: float


class Jail:
    """A private place on disk for confined runs, removed on leaving.

    Example:
        ::

            with Jail() as jail:
                ran = jail.run(SOURCE, inputs={"samples.npy": path}, outputs=["predictions.npy"])
                predictions = np.load(ran.outputs["predictions.npy"], allow_pickle=False)

    A run is what ``python program.py`` would be in a new folder: the working folder comes first on the
    module path, ``__name__`` is ``"__main__"``, inputs lie there under their names. It may start threads and
    child processes (``os.fork``; not ``multiprocessing`` locks, which need shared memory outside). Several
    threads may use one jail at a time. Outputs are a stranger's files: read them without unpickling.
    """

    def __init__(self, *, trusted: bool = False) -> None:
        """Make the folder.

        Args:
            trusted: Whether the user vouches for what is run here, should this system be unable to keep it in.

        Raises:
            BundleError: ``confinement-failed`` when there is no place for it.
        """
        self.trusted = trusted
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="rdagent-sota-jail-")).resolve()
        except OSError as error:
            raise _no_folder(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder with everything in it."""
        remove_folder(self._folder)

    def new_folder(self) -> Path:
        """An empty folder that lives as long as the jail.

        Raises:
            BundleError: ``confinement-failed`` when there is no place for it.
        """
        try:
            return Path(tempfile.mkdtemp(prefix="made-", dir=self._folder))
        except OSError as error:
            raise _no_folder(error) from error

    def run(
        self,
        program: str,
        *,
        inputs: Mapping[str, Path] | None = None,
        outputs: Sequence[str] = (),
        limits: Limits | None = None,
        subject: str = "The program",
    ) -> Ran:
        """Run ``program`` and take over the files it should leave.

        Args:
            program: Python source.
            inputs: What it finds in its working folder, by plain name: files, or folders with all beneath.
                It can read them, and change none.
            outputs: Plain names of the files that it must leave in its working folder.
            limits: Time, memory, output; the defaults of `Limits` otherwise.
            subject: Who it is, to begin a message with: "The bundle's model code".

        Raises:
            BundleError: ``program-failed`` with the end of what it printed, ``program-over-limit``,
                ``program-bad-output`` when a file is missing or no plain file, ``confinement-failed``.
        """
        bounds = limits or Limits()
        attempt = self.attempt(program, inputs=inputs, outputs=outputs, limits=bounds)
        ended = attempt.ended
        if ended.ending is Ending.FAILED:
            raise BundleError(
                "program-failed",
                f"{subject} failed with exit code {ended.code}: {ended.last_words()}",
                "It ran confined: no network, no files but its own. If it needs either, it cannot be used.",
            )
        if ended.ending is not Ending.FINISHED:
            raise BundleError(
                "program-over-limit",
                f"{subject} was ended: {over_limit(ended.ending, bounds)}.",
                "Give it a higher limit if it is meant to need that.",
            )
        if attempt.unfit:
            faults = "; ".join(f"{name}: {fault}" for name, fault in attempt.unfit.items())
            raise BundleError("program-bad-output", f"{subject} left no usable result: {faults}.")
        return Ran(attempt.outputs, ended.log, ended.seconds)

    def attempt(
        self,
        program: str,
        *,
        inputs: Mapping[str, Path] | None = None,
        own_copies: Mapping[str, Path] | None = None,
        outputs: Sequence[str] = (),
        limits: Limits | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> Attempt:
        """As `run`, with the ending as data; only a jail that cannot be built raises.

        Args:
            program: Python source.
            inputs: As for `run`.
            own_copies: Files that it may change: it gets copies.
            outputs: As for `run`.
            limits: As for `run`.
            texts: Further files for its folder, by name.

        Raises:
            BundleError: ``confinement-failed``.
        """
        if sys.platform == "win32":
            raise BundleError(
                "confinement-failed",
                "Windows has none of the means to limit a process that is used here.",
                "Run this on Linux, or in WSL.",
            )
        bounds = limits or Limits()
        try:
            place = Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))
            work = place / "work"
            readable = furnish(work, {**(texts or {}), _PROGRAM: program}, inputs or {}, own_copies or {})
        except OSError as error:
            raise _no_folder(error) from error

        def order(report: int) -> Order:
            return Order(
                command=python_command(work, _PROGRAM),
                # What a program may ask for without meaning harm; nothing of ours.
                variables={"HOME": str(work), "TMPDIR": str(work)},
                folder=str(work),
                readable=[*readable_paths(), *readable],
                devices=list(DEVICES),
                memory_mb=bounds.memory_mb,
                output_mb=bounds.output_mb,
                threads=_THREADS,
                walls=what_confines().walls,
                report=report,
            )

        try:
            ended = supervise(order, work, bounds)
            taken, unfit = take_outputs(work, outputs, place)
        except BaseException:
            remove_folder(place)
            raise
        remove_folder(work)
        return Attempt(ended, taken, unfit)


def over_limit(ending: Ending, limits: Limits) -> str:
    """Which limit an ending is about, in words."""
    return {
        Ending.OVER_TIME: f"not done after {limits.seconds:g} seconds",
        Ending.OVER_MEMORY: f"more than {limits.memory_mb} MB of memory",
        Ending.OVER_OUTPUT: f"more than {limits.output_mb} MB of files",
        Ending.OVER_THREADS: f"more than {_THREADS} processes and threads",
        Ending.DISK_FULL: "hardly any room is left on the disk of its private folder (TMPDIR)",
    }[ending]


def _no_folder(error: OSError) -> BundleError:
    return BundleError(
        "confinement-failed",
        f"The private folder for a confined run cannot be made: {error}.",
        "Check that the inputs exist and that the folder for temporary files (TMPDIR) has room.",
    )

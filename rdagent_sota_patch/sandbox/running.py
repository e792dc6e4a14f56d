"""What runs *inside* the jail to run one factor's code on several folders of data files, each time as if alone.

Each run is a fork with a folder of its own, for temporary files as well: pandas is imported once, nothing that the code
leaves in its modules reaches the next run, and it may end in any way. When it has ended, so has all it started, and
only then is its result read. Beside it in the jail are the files `inside`, `asked` and `locks`; it imports nothing else
of ours.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from rdagent_sota_patch.sandbox.asked import Asked, read_notes
    from rdagent_sota_patch.sandbox.inside import convert_result, cut_file
    from rdagent_sota_patch.sandbox.locks import make_locks_of_pipes
else:
    from asked import Asked, read_notes
    from inside import convert_result, cut_file
    from locks import make_locks_of_pipes

_REASON_LENGTH = 400


def in_child(work: Callable[[], None], folder: Path, seconds: float) -> dict[str, str] | None:
    """Do ``work`` in a fork, in ``folder``; None, or the kind of its failure and the reason."""
    report = folder.with_name(f"{folder.name}-failed")
    with warnings.catch_warnings():
        # Python 3.12 warns of the threads that NumPy's libraries have started; they are made for forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.chdir(folder)
        # Ends the fork; sent by itself, since the jail may forbid to signal others.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        why = failure_of(work)
        if why is not None:
            report.write_text(why[:_REASON_LENGTH], encoding="utf-8", errors="replace")
        leave(0 if why is None else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if os.getpid() == 1:  # Alone in its namespace but for what the code has left running.
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    if code == -signal.SIGALRM:
        return {"kind": "over time", "reason": f"not done after {seconds:g} seconds"}
    if not code:
        return None
    with suppress(OSError):
        return {
            "kind": "failed",
            "reason": report.read_text(encoding="utf-8", errors="replace")[:_REASON_LENGTH],
        }
    ended = f"it is ended by {signal.Signals(-code).name}" if code < 0 else f"it exits with {code}"
    return {"kind": "failed", "reason": ended}


def failure_of(work: Callable[[], None]) -> str | None:
    """Do ``work``; None, or why it failed."""
    try:
        work()
    except SystemExit as end:
        return None if end.code in (None, 0) else f"it exits with {end.code}"
    except BaseException as error:  # noqa: BLE001 - reported, whatever it is
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def leave(code: int) -> NoReturn:
    """End a fork as a program ends, but for taking the interpreter apart: that takes five times what a factor does."""
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()  # Closes the HDF5 files that were left open.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(trial: Mapping[str, Any], code: bytes, seconds: float) -> dict[str, Any]:
    """One run: how it failed, if it did, and what it asked for."""
    top = Path.cwd()
    name = str(trial["name"])
    folder = top / f"run-{name}"
    folder.mkdir()
    given = {str(file): (top / str(place)).resolve() for file, place in trial["files"].items()}
    notes = top / f"run-{name}-notes"
    to_cut = [name for name in given if name in trial["dated"] and (trial["start"] or trial["end"])]
    for file in given.keys() - to_cut:
        (folder / file).symlink_to(given[file])
    failure = in_child(lambda: cut_files(to_cut, given, trial), folder, seconds) if to_cut else None
    outcome: dict[str, Any] = {}
    if failure is None:
        (folder / "factor.py").write_bytes(code)
        failure = in_child(lambda: run_code(folder, given, notes, code), folder, seconds)
        outcome = read_notes(notes, folder, given)
    if failure is None:
        failure = in_child(lambda: take_result(str(top / f"{name}.values")), folder, seconds)
        if failure is not None and failure["kind"] == "failed":
            failure = {"kind": "bad result", "reason": failure["reason"].removeprefix("ValueError: ")}
    shutil.rmtree(folder, ignore_errors=True)
    return {**outcome, "failure": failure}


def cut_files(names: Sequence[str], given: Mapping[str, Path], trial: Mapping[str, Any]) -> None:
    """Write the rows of data files from a day on, or up to one, into the run's folder."""
    window = {name: trial[name] for name in ("start", "end")}
    for name in names:
        cut_file(given[name], name, [{"target": name, **window, "altered_after": None, "ends": ()}])


def run_code(folder: Path, given: Mapping[str, Path], notes: Path, code: bytes) -> None:
    """Run ``factor.py`` as ``python factor.py`` would."""
    np.random.seed()  # Forks would draw the same numbers, and a random factor look repeatable.
    os.environ["HOME"] = os.environ["TMPDIR"] = str(folder)
    sys.argv = ["factor.py"]
    sys.path.insert(0, str(folder))
    asked = Asked(folder, given, notes)
    asked.watch(code)
    make_locks_of_pipes()
    runpy.run_path("factor.py", run_name="__main__")


def take_result(target: str) -> None:
    """Turn ``result.h5`` into numbers."""
    fault = convert_result("result.h5", target)
    if fault is not None:
        raise ValueError(fault)


def main() -> None:
    """Do the runs of ``plan.json`` in their order, and say how each ended."""
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    code = Path("code.txt").read_bytes()
    pd.HDFStore("loaded.h5", mode="w").close()  # Load PyTables once, for all forks.
    outcomes = {str(trial["name"]): run(trial, code, plan["seconds"]) for trial in plan["trials"]}
    Path("outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()

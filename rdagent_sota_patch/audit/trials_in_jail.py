"""Program for the jail: run one factor's code on several market data files, each time as if it were alone.

Each run is a fork: pandas is imported once, and nothing that the code leaves in its modules reaches the next run.
Each has a folder of its own, for temporary files as well.
Runs by itself, with pandas and PyTables alone.
"""

import atexit
import json
import os
import runpy
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

# One thread each: several factors run side by side, and sums come out the same however many cores there are.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

REASON_LENGTH = 400


def in_child(work: Callable[[], None], folder: Path, seconds: float) -> str | None:
    """Do ``work`` in a fork, in ``folder``; None, or why it failed."""
    report = folder / "failed.txt"
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        # Ends the fork; sent by itself, since the jail may forbid to signal others.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        why = failure_of(work)
        if why is not None:
            report.write_text(why[:REASON_LENGTH], encoding="utf-8", errors="replace")
        leave(0 if why is None else 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGALRM:
        return f"it takes longer than {seconds:g} seconds"
    if report.exists():
        return report.read_text(encoding="utf-8", errors="replace")[:REASON_LENGTH]
    return describe(code) if code else None


def failure_of(work: Callable[[], None]) -> str | None:
    """Do ``work``; None, or why it failed."""
    try:
        work()
    except SystemExit as end:
        return None if end.code in (None, 0) else f"it exits with {end.code}"
    except BaseException as error:  # noqa: BLE001  # reported, whatever it is
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


def describe(code: int) -> str:
    """An exit code in words."""
    return f"it is ended by {signal.Signals(-code).name}" if code < 0 else f"it exits with {code}"


def shorten(source: Path, start: str) -> None:
    """Write the run's market data: the source from a day on."""
    frame = pd.read_hdf(source, key="data")
    part = frame[np.asarray(frame.index.get_level_values("datetime") >= pd.Timestamp(start))]
    if isinstance(part.index, pd.MultiIndex):
        part.index = part.index.remove_unused_levels()
    part.to_hdf("daily_pv.h5", key="data", mode="w")


def convert(target: Path) -> None:
    """Turn ``result.h5`` into a plain table, as RD-Agent would read it."""
    if not Path("result.h5").is_file():
        raise ValueError("it writes no result.h5")
    result = pd.read_hdf("result.h5")
    frame = result.to_frame() if isinstance(result, pd.Series) else result
    if not isinstance(frame, pd.DataFrame) or len(frame.columns) != 1:
        raise ValueError("its result is not one column")
    if not {"datetime", "instrument"} <= set(frame.index.names) or frame.index.nlevels != 2:
        raise ValueError("its result's index is not (datetime, instrument)")
    days = pd.DatetimeIndex(frame.index.get_level_values("datetime")).to_numpy().astype("datetime64[ns]")
    instruments = frame.index.get_level_values("instrument").astype(str).to_numpy(dtype=object)
    table = pa.table(
        {
            "datetime": pa.array(days.astype(np.int64), pa.int64()),
            "instrument": pa.array(instruments, pa.string()),
            "value": pa.array(
                frame.iloc[:, 0].to_numpy().astype(np.float64), pa.float64(), from_pandas=False
            ),
        }
    )
    pq.write_table(table, target)


def run(trial: dict[str, str | None], code: bytes, seconds: float) -> str | None:
    """One run; None, or why it failed."""
    top = Path.cwd()
    folder = top / f"run-{trial['name']}"
    folder.mkdir()
    failed = run_in(folder, trial, code, seconds)
    shutil.rmtree(folder)
    return failed


def run_in(folder: Path, trial: dict[str, str | None], code: bytes, seconds: float) -> str | None:
    """`run`, in a folder of its own."""
    top = folder.parent
    source = top / str(trial["data"])
    if trial["start"] is None:
        (folder / "daily_pv.h5").symlink_to(source)
    else:
        start = trial["start"]
        failed = in_child(lambda: shorten(source, start), folder, seconds)
        if failed is not None:
            return failed
    (folder / "factor.py").write_bytes(code)

    def factor() -> None:
        np.random.seed()  # Forks would draw the same numbers, and a random factor look repeatable.
        os.environ["HOME"] = os.environ["TMPDIR"] = str(folder)
        sys.argv = ["factor.py"]
        sys.path.insert(0, str(folder))
        runpy.run_path("factor.py", run_name="__main__")

    failed = in_child(factor, folder, seconds)
    if failed is None:
        failed = in_child(lambda: convert(top / f"{trial['name']}.parquet"), folder, seconds)
    return failed


def main() -> None:
    """Do the runs of ``plan.json`` in their order, and say how each ended."""
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    code = Path("factor.py").read_bytes()
    pd.HDFStore("loaded.h5", mode="w").close()  # Load PyTables once, for all forks.
    outcomes: dict[str, str | None] = {}
    for trial in plan["trials"]:
        if plan["first_decides"] and next(iter(outcomes.values()), None) is not None:
            outcomes[trial["name"]] = "it was not run, since it fails on the first data"
        else:
            outcomes[trial["name"]] = run(trial, code, plan["seconds"])
    Path("outcomes.json").write_text(json.dumps(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()

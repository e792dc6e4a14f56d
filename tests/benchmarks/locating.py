"""Locating the SOTA experiment, against unpickling every snapshot and against RD-Agent's load of one."""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.processes import run_child

if TYPE_CHECKING:
    from collections.abc import Iterable

MODULE = "locating"
LOOPS = 100
STEPS = 5
_ROUNDS = 11
_FULL_ROUNDS = 3
"""Rounds in which every snapshot is unpickled as well: each takes many seconds."""


def measure(folder: Path, log: Path) -> list[Comparison]:
    """Measure on a log of ``LOOPS`` loops.

    Both sides read the first loop's small snapshot before the clock starts: RD-Agent's load imports the classes it
    meets, ours makes a stand-in for each, and neither counts. Both are processor time: the files are cached, so
    that nothing is waited for but other programs.
    """
    ours, unverified, newest, every = [], [], [], []
    for number in range(_ROUNDS):
        ours.append(run_child(MODULE, ["ours", log], folder))
        newest.append(run_child(MODULE, ["newest", log], folder))
        unverified.append(run_child(MODULE, ["ours", log], folder, key=False))
        if number < _FULL_ROUNDS:
            every.append(run_child(MODULE, ["every", log], folder))
    snapshots = LOOPS * STEPS
    return [
        compare(
            f"locate the SOTA in {snapshots} snapshots / unpickle all of them",
            "ms",
            ours,
            every,
            Limit(Bound.RATIO, 0.01),
        ),
        compare("the same / RD-Agent's load of the newest one", "ms", ours, newest, Limit(Bound.RATIO, 1.0)),
        compare(
            "the same without the key, screened / RD-Agent's load of the newest one", "ms", unverified, newest
        ),
    ]


def _time_ours(log: Path, first: Path) -> float:
    from rdagent_sota_patch.sessions import locate_sota, opcodes, read_session

    assert opcodes is not None  # imported here, so that the import is not counted when the key is missing
    read_session(first)
    gc.collect()
    start = time.process_time()
    sota = locate_sota(read_session(log))
    seconds = time.process_time() - start
    if sota.loop < LOOPS - 2:
        raise RuntimeError(f"found loop {sota.loop}, not one of the last")
    return seconds


def _time_loads(snapshots: Iterable[Path], first: Path) -> float:
    from rdagent.core.serialization import load

    def load_one(snapshot: Path) -> int:
        with snapshot.open("rb") as file:
            return len(load(file).trace.hist)

    load_one(first)
    # Else the load would trip over what the imports left behind, which takes ten times as long as the load.
    gc.collect()
    start = time.process_time()
    longest = max(map(load_one, snapshots))
    seconds = time.process_time() - start
    if longest != LOOPS:
        raise RuntimeError(f"the longest history has {longest} loops")
    return seconds


def _main(mode: str, log: Path) -> None:
    session = log / "__session__"
    first, newest = session / "0" / "4_record", session / str(LOOPS - 1) / "4_record"
    if mode == "ours":
        seconds = _time_ours(log, first)
    elif mode == "newest":
        seconds = _time_loads([newest], first)
    else:
        seconds = _time_loads(session.glob("*/*"), first)
    print(json.dumps(seconds * 1e3))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))

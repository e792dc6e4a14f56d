"""Sizes: a table of 5 GB within bounded memory and at copying speed, and how times grow with what there is more of.

python -m tests.proof.scale STEP FOLDER
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.proof.report import Row, timed

PART = "scale"
_FACTORS = 50
_DAYS, _STOCKS = 2500, 5000
_MEMORY_MB = 500.0
"""Above a bare interpreter's, everything that is imported included."""
_AT_COPYING_SPEED = 1.5
_LARGEST_EXPONENT = 1.1
"""1, and what a busy machine adds to it."""
_FLAT = 0.25
_REPEATS = 5
_LOOPS = 100
TABLE_NAME = "combined_factors_df.parquet"
NAMES = tuple(f"Mined{number:02}" for number in range(_FACTORS))


def measure(folder: Path) -> list[Row]:
    """The large table, then the curves."""
    folder.mkdir(parents=True)
    return [*_measure_table(folder), *_measure_growth(folder)]


# -- one large table ------------------------------------------------------------------------------------------------


def _measure_table(folder: Path) -> list[Row]:
    made = _step("make", folder)
    size = f"{_DAYS * _STOCKS:,} x {_FACTORS}, {made['bytes'] / 1e9:.1f} GB"
    bare = _step("bare", folder)["memory"]
    rows = []
    for name in ("locate", "check", "inject", "export"):
        # Right before, since what else the machine does changes from minute to minute.
        copied = _step("copy", folder)["seconds"] if name != "locate" else 0.0
        rows.append(timed(lambda name=name, copied=copied: _judge_step(name, folder, size, bare, copied)))
    shutil.rmtree(folder)
    folder.mkdir()
    return rows


def _judge_step(name: str, folder: Path, size: str, bare: float, copied: float) -> Row:
    done = _step(name, folder)
    above = done["memory"] - bare
    quick = name != "inject" or done["seconds"] <= _AT_COPYING_SPEED * copied
    beside = f" (a plain copy right before: {copied:.1f} s)" if copied else ""
    found = f"{size}: {done['seconds']:.1f} s{beside}, {above:.0f} MB above the interpreter"
    return Row(
        PART, f"{name} the large table", 1, above <= _MEMORY_MB and quick, found, memory=done["memory"]
    )


def _step(name: str, folder: Path) -> Any:
    command = [sys.executable, "-W", "ignore", "-m", "tests.proof.scale", name, str(folder)]
    environ = {**os.environ, "HOME": str(folder), "RDAGENT_SOTA_DISABLE": "true"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _make(folder: Path) -> dict[str, float]:
    """A run whose last experiment has the table, 100 days to a row group; its model knows some of the rows."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tests.export import made_run
    from tests.sessions.forged import factor_experiment, feedback, put, saved_loop, workspace

    made_run.ORDER = NAMES  # type: ignore[assignment]
    place = folder / "project" / "git_ignore_folder" / "RD-Agent_workspace" / "0" / "w"
    place.mkdir(parents=True)
    chance = np.random.default_rng(0)
    index = pd.MultiIndex.from_product(
        [made_run.DAYS, made_run.INSTRUMENTS], names=["datetime", "instrument"]
    )
    columns = pd.MultiIndex.from_product([["feature"], NAMES])
    some = pd.DataFrame(chance.normal(size=(len(index), _FACTORS)), index=index, columns=columns)
    some.to_parquet(place / TABLE_NAME)
    made_run.make_label = lambda table: _label(table, made_run)
    made_run.write_recorder(place, table=NAMES)
    days = pd.bdate_range(end=made_run.DAYS[-1] + pd.offsets.BDay(60), periods=_DAYS)
    others = [f"SZ{number:06}" for number in range(_STOCKS - len(made_run.INSTRUMENTS))]
    stocks = pa.array([*made_run.INSTRUMENTS, *others]).dictionary_encode()
    schema = pq.read_schema(place / TABLE_NAME)
    (place / TABLE_NAME).unlink()
    with pq.ParquetWriter(place / TABLE_NAME, schema) as writer:
        for begin in range(0, _DAYS, 100):
            part = days[begin : begin + 100]
            values = chance.standard_normal((len(part), _STOCKS, _FACTORS))
            for number, day in enumerate(part):
                if day in made_run.DAYS:
                    values[number, : len(made_run.INSTRUMENTS)] = some.loc[day].to_numpy()
            flat = values.reshape(-1, _FACTORS)
            arrays = [pa.array(flat[:, factor]) for factor in range(_FACTORS)]
            arrays.append(pa.array(np.repeat(part.to_numpy(), _STOCKS)).cast(schema.field("datetime").type))
            arrays.append(pa.chunked_array([stocks.cast(pa.string())] * len(part)).combine_chunks())
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=len(flat))
    experiment = factor_experiment(*NAMES, experiment_workspace=workspace(str(place)))
    put(folder / "project" / "log" / "large", 0, "4_record", saved_loop((experiment, feedback(True))))
    return {"bytes": (place / TABLE_NAME).stat().st_size}


def _label(table: Any, made_run: Any) -> Any:
    label = (table["feature"].iloc[:, 0] / 100).rename("LABEL0").to_frame()
    label[label.index.get_level_values(0) > made_run.DAYS[-3]] = math.nan
    return label


def _table(folder: Path) -> Path:
    (found,) = (folder / "project").rglob(TABLE_NAME)
    return found


def _source(folder: Path) -> Any:
    from rdagent_sota_patch.factor_table.sources import source_of
    from rdagent_sota_patch.sessions.snapshots import read_session

    return source_of(read_session(folder / "project" / "log" / "large"))


def _locate(folder: Path) -> None:
    from rdagent_sota_patch.factor_table.schema import read_names

    source = _source(folder)
    assert source.table is not None and read_names(source.table) == NAMES


def _check(folder: Path) -> None:
    from rdagent_sota_patch.factor_table.table import read_factor_table

    assert read_factor_table(_table(folder)).rows == _DAYS * _STOCKS


def _inject(folder: Path) -> None:
    from rdagent_sota_patch.factor_table.canonical import copy_table

    copy_table(_table(folder), folder / "injected.parquet")


def _export(folder: Path) -> None:
    from rdagent_sota_patch.export.export_run import ExportOptions, export_bundle
    from rdagent_sota_patch.sessions.snapshots import read_session

    session = read_session(folder / "project" / "log" / "large")
    exported = export_bundle(session, folder / "bundle", ExportOptions(), lambda _: None)
    assert exported.replayed is not None and exported.replayed.max_difference == 0.0


def _copy(folder: Path) -> None:
    shutil.copyfile(_table(folder), folder / "plain.parquet")


def _run_step(name: str, folder: Path) -> dict[str, float]:
    if name == "make":
        return _make(folder)
    act = {
        "bare": lambda _: None,
        "locate": _locate,
        "check": _check,
        "inject": _inject,
        "export": _export,
        "copy": _copy,
    }
    start = time.perf_counter()
    act[name](folder)
    seconds = time.perf_counter() - start
    for path in ("injected.parquet", "plain.parquet"):
        (folder / path).unlink(missing_ok=True)
    from tests.benchmarks.memory import peak

    return {"seconds": seconds, "memory": peak()}


# -- how times grow -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Times of one act over sizes.

    Attributes:
        limit: Of the exponent.
    """

    name: str
    sizes: tuple[int, ...]
    make: Callable[[Path, int], Path]
    act: Callable[[Path], object]
    limit: float = _LARGEST_EXPONENT


def _measure_growth(folder: Path) -> list[Row]:
    rows, curves = [], {}
    for curve in CURVES:
        row, points = _follow(curve, folder)
        rows.append(row)
        curves[curve.name] = points
    # Beside the folder of the part, which goes with it: for `python -m tests.proof.plot`.
    Path(tempfile.gettempdir(), "growth.json").write_text(json.dumps(curves), encoding="utf-8")
    return rows


def _follow(curve: Curve, folder: Path) -> tuple[Row, list[tuple[int, float]]]:
    points: list[tuple[int, float]] = []

    def follow() -> Row:
        for size in curve.sizes:
            place = folder / "grown"
            place.mkdir()
            made = curve.make(place, size)
            curve.act(made)
            points.append((size, statistics.median(_time(curve.act, made) for _ in range(_REPEATS))))
            shutil.rmtree(place)
        exponent = fit_exponent(points)
        ends = (
            f"{points[0][0]:,}: {points[0][1] * 1e3:.1f} ms, {points[-1][0]:,}: {points[-1][1] * 1e3:.1f} ms"
        )
        found = f"exponent {exponent:.2f} (at most {curve.limit:g}); {ends}"
        return Row(PART, curve.name, len(curve.sizes), exponent <= curve.limit, found)

    return timed(follow), points


def _time(act: Callable[[Path], object], made: Path) -> float:
    start = time.process_time()
    act(made)
    return time.process_time() - start


def fit_exponent(points: Sequence[tuple[int, float]]) -> float:
    """The power of the size that the time grows by: the slope of the logarithms, by least squares."""
    sizes = [math.log(size) for size, _ in points]
    times = [math.log(seconds) for _, seconds in points]
    return statistics.linear_regression(sizes, times).slope


def _history(loops: int) -> Any:
    from tests.sessions.forged import factor_experiment, feedback, saved_loop

    code = "# a factor\n" + "value = close / open - 1\n" * 200
    history = []
    for number in range(loops):
        experiment = factor_experiment(f"F{number}", f"G{number}", extra={"text": f"{number} " + code})
        history.append((experiment, feedback(number % 3 != 1)))
    return saved_loop(*history)


def _log_of_loops(folder: Path, loops: int) -> Path:
    from tests.sessions.forged import put

    put(folder / "log", loops - 1, "4_record", _history(loops))
    return folder / "log"


def _log_of_snapshots(folder: Path, snapshots: int) -> Path:
    """100 loops and a history of as many; the steps of a loop are as many as it takes."""
    from tests.sessions.forged import put

    steps = snapshots // _LOOPS
    early = put(folder / "log", 0, "0_step", _history(1))
    for number in range(1, snapshots - 1):
        path = folder / "log" / "__session__" / str(number // steps) / f"{number % steps}_step"
        path.parent.mkdir(exist_ok=True)
        os.link(early, path)
    put(folder / "log", _LOOPS - 1, f"{steps - 1}_record", _history(_LOOPS))
    return folder / "log"


def _root_of_runs(folder: Path, runs: int) -> Path:
    from tests.sessions.forged import factor_experiment, feedback, put, saved_loop

    first = put(
        folder / "root" / "run-00000", 0, "4_record", saved_loop((factor_experiment("A"), feedback(True)))
    )
    for number in range(1, runs):
        path = folder / "root" / f"run-{number:05}" / "__session__" / "0" / "4_record"
        path.parent.mkdir(parents=True)
        os.link(first, path)
    return folder / "root"


def _table_of_rows(folder: Path, rows: int) -> Path:
    import numpy as np
    import pandas as pd

    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2010-01-01", periods=rows // 500), [f"SH{number:06}" for number in range(500)]],
        names=["datetime", "instrument"],
    )
    columns = pd.MultiIndex.from_product([["feature"], [f"F{number}" for number in range(10)]])
    values = np.random.default_rng(0).standard_normal((len(index), 10))
    path = folder / TABLE_NAME
    pd.DataFrame(values, index=index, columns=columns).to_parquet(path)
    return path


def _read_located(log: Path) -> None:
    from rdagent_sota_patch.sessions import locate_sota, read_session

    locate_sota(read_session(log))


def _read_latest(root: Path) -> None:
    from rdagent_sota_patch.sessions.logs import find_log

    find_log("latest", (root,))


def _list_runs(root: Path) -> None:
    from rdagent_sota_patch.sessions.logs import list_runs, newest_first

    assert newest_first(list_runs(root))


def _read_rows(path: Path) -> None:
    from rdagent_sota_patch.factor_table.table import read_factor_table

    read_factor_table(path)


def _copy_rows(path: Path) -> None:
    from rdagent_sota_patch.factor_table.canonical import copy_table

    copy_table(path, path.with_name("copy.parquet"))


CURVES = (
    Curve("locate, by snapshots", (500, 1000, 2000, 5000), _log_of_snapshots, _read_located, _FLAT),
    Curve("locate, by loops in the history", (125, 250, 500, 1000), _log_of_loops, _read_located),
    Curve("latest, by runs", (250, 500, 1000, 2000), _root_of_runs, _read_latest),
    Curve("list, by runs", (250, 500, 1000, 2000), _root_of_runs, _list_runs),
    Curve("check a table, by rows", (250_000, 500_000, 1_000_000, 2_000_000), _table_of_rows, _read_rows),
    Curve("copy a table, by rows", (250_000, 500_000, 1_000_000, 2_000_000), _table_of_rows, _copy_rows),
)


if __name__ == "__main__":
    print(json.dumps(_run_step(sys.argv[1], Path(sys.argv[2]))))

"""What runs *inside* the jail to read and write HDF5, whose reader may unpickle what a file holds.

Its source is sent in, with one call added at its end; nothing here imports the package. What comes out is
numbers: see `frames` for the layout.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd


class Unfit(Exception):
    """A frame that is not what it should be."""


def run_factor(code: str, result: str, target: str) -> None:
    """Run a factor's code as ``python code`` would, then write its HDF5 result as numbers.

    The code runs in a fork: it may end in any way, and what it changes in pandas does not reach the reading.
    One process instead of two saves importing pandas twice, which takes longer than most factors.
    """
    with warnings.catch_warnings():
        # Python 3.12 warns of the threads that NumPy's libraries have started; they are made for forks.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        runpy.run_path(code, run_name="__main__")
        sys.exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if os.getpid() == 1:  # Alone in its namespace but for what the code has left running.
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    if ended:
        sys.exit(ended if ended > 0 else 128 - ended)
    convert_result(result, target)


def convert_result(result: str, target: str) -> None:
    """Write a factor's HDF5 result as numbers, or why that cannot be."""
    try:
        _write(_read_result(Path(result)), target)
    except Exception as error:  # noqa: BLE001 - whatever a stranger's file leads to is said outside
        _save(target, {"fault": _fault(error)})


def _read_result(path: Path) -> pd.DataFrame:
    if path.is_symlink() or not path.is_file():
        raise Unfit("it is a link" if path.is_symlink() else "it was not written")
    # RD-Agent reads it so, whatever its key: FactorFBWorkspace.execute.
    found = pd.read_hdf(path)
    frame = found.to_frame() if isinstance(found, pd.Series) else found
    if frame.shape[1] != 1:
        raise Unfit(f"it has {frame.shape[1]} columns, not one")
    return frame


def convert_market(source: str, target: str, *, values: bool) -> None:
    """Write the market data as numbers; without ``values`` its days, instruments and column names alone."""
    try:
        _write(pd.read_hdf(source, key="data"), target, values=values)
    except Exception as error:  # noqa: BLE001 - as above
        _save(target, {"fault": _fault(error)})


def cut_market(source: str, cuts: Sequence[tuple[str, str | None, str | None]]) -> None:
    """Write parts of the market data as files of the same kind: name, first and last day of each."""
    frame = pd.read_hdf(source, key="data")
    index = frame.index
    assert isinstance(index, pd.MultiIndex)
    days = index.get_level_values("datetime")
    for target, start, end in cuts:
        kept = np.ones(len(frame), dtype=bool)
        if start is not None:
            kept &= days >= pd.Timestamp(start)
        if end is not None:
            kept &= days <= pd.Timestamp(end)
        part = frame[kept]
        # The levels of a slice still name the days that were cut off.
        part.index = index[kept].remove_unused_levels()
        part.to_hdf(target, key="data", mode="w")


def _write(frame: object, target: str, *, values: bool = True) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise Unfit(f"it holds a {type(frame).__name__}, not a table")
    index = frame.index
    if not isinstance(index, pd.MultiIndex) or list(index.names) != ["datetime", "instrument"]:
        raise Unfit(f"its index is {list(index.names)}, not datetime and instrument")
    index = index.remove_unused_levels()
    days, instruments = index.levels
    if not isinstance(days, pd.DatetimeIndex) or days.tz is not None:
        raise Unfit(f"its datetime level is {days.dtype}, not plain dates")
    names = instruments.tolist()
    if not all(isinstance(name, str) for name in names):
        raise Unfit("its instruments are not all texts")
    if any((codes < 0).any() for codes in index.codes):
        raise Unfit("rows have no datetime or no instrument")
    columns = [frame.iloc[:, position].to_numpy() for position in range(frame.shape[1])]
    for name, column in zip(frame.columns, columns, strict=True):
        if column.dtype.kind not in "fiub":
            raise Unfit(f"column {name!r} holds {column.dtype}, not numbers")
    header = {"columns": [str(name) for name in frame.columns], "instruments": names, "rows": len(frame)}
    codes = [np.asarray(codes, dtype=np.int64) for codes in index.codes]
    _save(target, header, days.to_numpy(), *([*codes, *columns] if values else []))


def _fault(error: Exception) -> str:
    # The HDF5 library tells the way down to an error in many lines, and the error in the last.
    text = " ".join(str(error).strip().splitlines()[-1:])[:2000]
    return text if isinstance(error, Unfit) else f"it cannot be read: {type(error).__name__}: {text}"


def _save(target: str, header: dict[str, object], *arrays: np.ndarray) -> None:
    with Path(target).open("wb") as file:
        np.save(file, np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
        for array in arrays:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)

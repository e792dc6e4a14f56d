"""Program for the jail: survey a ``daily_pv.h5``, and write copies of it that begin later or end earlier.

Runs by itself, with pandas and PyTables alone: reading HDF5 as pandas writes it may unpickle.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

SOURCE = "daily_pv.h5"
KEY = "data"


def survey(frame: pd.DataFrame) -> None:
    """Write the trading days, and by day how many stocks lack data that they have on a later day."""
    level = frame.index.get_level_values("datetime")
    rows, days = pd.factorize(level, sort=True)
    columns, stocks = pd.factorize(frame.index.get_level_values("instrument"))
    has = np.zeros((len(days), len(stocks)), dtype=bool)
    has[rows, columns] = frame.notna().all(axis=1).to_numpy()
    later = np.logical_or.accumulate(has[::-1])[::-1]
    np.save("days.npy", np.asarray(days, dtype="datetime64[ns]"))
    np.save("lacking.npy", (later & ~has).sum(axis=1, dtype=np.int64))


def alter(frame: pd.DataFrame, after: pd.Timestamp) -> pd.DataFrame:
    """Other prices after a day, with every row, gap and type as it was."""
    frame = frame.copy()
    later = np.asarray(frame.index.get_level_values("datetime") > after)
    factors = np.random.default_rng(20).uniform(0.5, 1.5, (int(later.sum()), len(frame.columns)))
    for place, name in enumerate(frame.columns):
        values = frame[name].to_numpy().copy()
        values[later] = (values[later] * factors[:, place]).astype(values.dtype)
        frame[name] = values
    return frame


def write_copy(frame: pd.DataFrame, copy: dict[str, str | None]) -> None:
    """Write the rows from one day to another, or all with another future."""
    if copy["altered_after"] is not None:
        frame = alter(frame, pd.Timestamp(copy["altered_after"]))
    level = frame.index.get_level_values("datetime")
    wanted = np.ones(len(frame), dtype=bool)
    if copy["start"] is not None:
        wanted &= np.asarray(level >= pd.Timestamp(copy["start"]))
    if copy["end"] is not None:
        wanted &= np.asarray(level <= pd.Timestamp(copy["end"]))
    if not wanted.all():
        frame = frame[wanted]
        # Else the file would still name every day and stock of the whole.
        if isinstance(frame.index, pd.MultiIndex):
            frame.index = frame.index.remove_unused_levels()
    frame.to_hdf(str(copy["name"]), key=KEY, mode="w")


def main() -> None:
    """Do what ``plan.json`` says."""
    plan = json.loads(Path("plan.json").read_text(encoding="utf-8"))
    frame = pd.read_hdf(SOURCE, key=KEY)
    if not isinstance(frame, pd.DataFrame) or set(frame.index.names) != {"datetime", "instrument"}:
        raise SystemExit("Not a frame with the index (datetime, instrument).")
    if plan["survey"]:
        survey(frame)
    for copy in plan["copies"]:
        write_copy(frame, copy)


if __name__ == "__main__":
    main()

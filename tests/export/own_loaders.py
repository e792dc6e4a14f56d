"""Data loaders such as people write for Qlib, each with its own way of putting Alpha features and a table together."""

from __future__ import annotations

from typing import Any

import pandas as pd
from qlib.contrib.data.loader import Alpha158DL
from qlib.data.dataset.loader import QlibDataLoader, StaticDataLoader


class OneLoader:
    """Alpha features and a table in one; told its join."""

    def __init__(self, alpha_config: dict[str, Any], table_path: str, join: str = "left") -> None:
        self.alpha_loader = Alpha158DL(config=alpha_config)
        self.table_loader = StaticDataLoader(config=table_path)
        self.join = join

    def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        alpha = self.alpha_loader.load(instruments, start_time, end_time)
        table = self.table_loader.load(None, start_time, end_time)
        return self.put_together(alpha, table).sort_index()

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        """Alpha features as configured, then the table."""
        if self.join in ("left", "right"):
            return alpha.join(table, how=self.join)
        return pd.concat([alpha, table], axis=1, join=self.join)


class KeepsFirst(OneLoader):
    """Of two columns of one name the first."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        return alpha.join(table[[name for name in table if name not in alpha]], how=self.join)


class KeepsLast(OneLoader):
    """Of two columns of one name the last."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        return alpha[[name for name in alpha if name not in table]].join(table, how=self.join)


class Replaces(OneLoader):
    """Of two columns of one name the last one's values in the first one's place."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        joined = KeepsFirst.put_together(self, alpha, table)
        for name in table:
            joined[name] = table[name].reindex(joined.index)
        return joined


class KeepsBoth(OneLoader):
    """Two columns of one name."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([alpha, table.reindex(alpha.index)], axis=1)


class TableFirst:
    """The table goes first; neither its path nor the join is configured."""

    def __init__(self, expressions: dict[str, Any]) -> None:
        self.expressions = expressions

    def load(self, instruments: Any = None, start_time: Any = None, end_time: Any = None) -> pd.DataFrame:
        alpha = QlibDataLoader(config=self.expressions).load(instruments, start_time, end_time)
        table = pd.read_parquet("combined_factors_df.parquet").loc[
            pd.Timestamp(start_time) : pd.Timestamp(end_time)
        ]
        return self.put_together(alpha, table).sort_index()

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        return table.join(alpha, how="inner")


class Sorted(TableFirst):
    """All columns sorted, the rows of either."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        return table.join(alpha, how="outer").sort_index(axis=1)


class Shifts(OneLoader):
    """Gives the model other values than those of its configuration."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        return alpha.join(table * 2, how=self.join)


class SlipsOnce(OneLoader):
    """Gives the model other values on a single day."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        changed = table.copy()
        changed.loc[pd.Timestamp("2020-11-18")] *= 2
        return alpha.join(changed, how=self.join)


class Fails(OneLoader):
    """Finds no data."""

    def put_together(self, alpha: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
        raise ValueError("Refusing to run")

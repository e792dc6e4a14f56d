"""Factor frames for the tests: small ones by hand, arbitrary ones by Hypothesis."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import strategies as st

INDEX = ["datetime", "instrument"]


def make_frame(
    days: int = 5,
    instruments: int = 3,
    names: tuple[str, ...] = ("Rev5D", "Vol20"),
    start: str = "2015-01-01",
) -> pd.DataFrame:
    """A frame as RD-Agent writes it: sorted (datetime, instrument) rows, ("feature", name) columns."""
    index = pd.MultiIndex.from_product(
        [
            pd.date_range(start, periods=days, freq="D").astype("datetime64[ns]"),
            [f"SH{600000 + number}" for number in range(instruments)],
        ],
        names=INDEX,
    )
    values = np.random.default_rng(0).standard_normal((len(index), len(names)))
    columns = pd.MultiIndex.from_product([["feature"], list(names)])
    frame = pd.DataFrame(values, index=index, columns=columns)
    frame.iloc[1, 0] = np.nan
    return frame


def flatten(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame under plain column names."""
    return frame.set_axis(frame.columns.get_level_values(1), axis=1)


_NAMES = st.text(
    alphabet=st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0"),
    min_size=1,
    max_size=8,
).filter(lambda name: bool(name.strip()) and name not in INDEX and not name.startswith("("))
_INSTRUMENTS = st.text(alphabet="SHZBJ0126", min_size=1, max_size=8)
_VALUES = st.floats(allow_infinity=False, width=64)


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Usable frames of any size, names, dates and numbers, with plain columns and rows in any order."""
    days = draw(st.lists(st.dates(min_value=pd.Timestamp("1990-01-01").date()), min_size=1, max_size=4))
    days = [day for day in days if day.year < 2200] or [pd.Timestamp("2020-01-01").date()]
    names = draw(st.lists(_NAMES, min_size=1, max_size=4, unique=True))
    instruments = draw(st.lists(_INSTRUMENTS, min_size=1, max_size=4, unique=True))
    pairs = draw(
        st.lists(
            st.tuples(st.sampled_from(days), st.sampled_from(instruments)),
            min_size=1,
            max_size=10,
            unique=True,
        )
    )
    columns = {
        name: draw(st.lists(_VALUES, min_size=len(pairs), max_size=len(pairs)).filter(_has_number))
        for name in names
    }
    index = pd.MultiIndex.from_arrays(
        [
            pd.DatetimeIndex([pd.Timestamp(day) for day, _ in pairs]).astype("datetime64[ns]"),
            pd.Index([name for _, name in pairs], dtype=object),
        ],
        names=INDEX,
    )
    return pd.DataFrame(columns, index=index)


def _has_number(values: list[float]) -> bool:
    return not np.isnan(values).all()

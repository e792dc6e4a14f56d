"""Which of a market's stocks can be scored on a day, and what the others lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.errors import BundleError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SAME_PRICE = 1e-4
"""Relative difference up to which two prices are one: stored as float32 on one side, as float64 on the other."""

LEAST_OF_A_DAY = 0.9
"""Share of the stocks traded the day before below which a day counts as not complete: few are halted in one day."""

MOST_OTHER_PRICES = 0.05
"""Share of stocks whose prices may differ between two sources, each then left out; beyond it, they are two markets."""


def require_common_stocks(members: Sequence[str], known: Sequence[str], data: Path) -> None:
    """See that ``daily_pv.h5`` is of the model's market at all; single stocks that it lacks are left out later.

    Args:
        members: The market's stocks on the day, by Qlib's data.
        known: The stocks of ``daily_pv.h5``.
        data: That file, for the message.

    Raises:
        BundleError: ``unknown-instruments`` when it knows fewer than half of them.
    """
    unknown = sorted(set(members) - set(known))
    if len(unknown) * 2 > len(members):
        raise BundleError(
            "unknown-instruments",
            f"{data} knows {len(members) - len(unknown)} of the market's {len(members)} stocks. It has "
            f"{', '.join(sorted(known)[:3])}, and not {', '.join(unknown[:3])}.",
            "Make daily_pv.h5 from the same Qlib data, with the same names.",
        )


def find_partial_day(
    members: Sequence[str], traded: NDArray[np.bool_], source: Path, day: pd.Timestamp
) -> Problem | None:
    """A notice where a source has far fewer of the market's stocks on a day than on the day before.

    Args:
        members: The market's stocks on the day.
        traded: By day and stock, the last two of its trading days; see `market_days.read_traded`.
        source: The file or folder, for the message.
        day: The last of the two.
    """
    before, now = (int(count) for count in traded.sum(axis=1))
    if now >= LEAST_OF_A_DAY * before:
        return None
    return Problem(
        "market-day-partial",
        f"{source} has trades of {now} of the market's {len(members)} stocks on {day:%Y-%m-%d}, and of {before} on the "
        "trading day before: the day seems to be there in part.",
        "Wait until the data are complete and predict again: the best of these stocks need not be the best of all.",
    )


def find_disagreeing(ours: pd.Series, theirs: pd.Series, day: pd.Timestamp) -> dict[str, str]:
    """Stocks whose closing price is another in Qlib's data than in ``daily_pv.h5``, with the reason.

    Mined factors are made of the one and Alpha features of the other: a stock that was split in only one of them
    would be scored on a mixture.

    Args:
        ours: Qlib's closing prices on ``day``, index instrument.
        theirs: Those of ``daily_pv.h5``.
        day: For the message.

    Raises:
        BundleError: ``market-data-mismatch`` when more than a few disagree.
    """
    both = pd.DataFrame({"ours": ours.astype("float64"), "theirs": theirs.astype("float64")}).dropna()
    differing = both[(both["ours"] - both["theirs"]).abs() > SAME_PRICE * both["ours"].abs()]
    reasons = {
        str(name): f"its close is {row.theirs:g} in daily_pv.h5 and {row.ours:g} in Qlib's data"
        for name, row in zip(differing.index, differing.itertuples(), strict=True)
    }
    if len(reasons) > MOST_OTHER_PRICES * len(both):
        name = next(iter(reasons))
        raise BundleError.of(
            [
                Problem(
                    "market-data-mismatch",
                    f"On {day:%Y-%m-%d}, {len(reasons)} of {len(both)} stocks have another price in daily_pv.h5 "
                    f"than in Qlib's data; {name}: {reasons[name]}.",
                    "Make daily_pv.h5 anew from the same Qlib data.",
                )
            ]
        )
    return reasons


def find_left_out(
    members: Sequence[str], today: pd.DataFrame, mined: pd.DataFrame, *, complete_rows: bool
) -> dict[str, str]:
    """Stocks that lack data, with the reason.

    That is: no row at all, or not one value of the mined factors, or none of the Alpha features. Who lacks just some is
    scored: the model's processors fill these, as in its back-test.

    Args:
        members: The market's stocks on the day.
        today: Raw features of the day as the model takes them, index instrument.
        mined: The mined factors of the day before the join, index instrument.
        complete_rows: Whether the model knows only stocks that have every mined factor.
    """
    factors = list(mined.columns)
    alpha = [name for name in today.columns if name not in factors]
    present = today.loc[[name for name in members if name in today.index]]
    reasons = {name: "no data in Qlib" for name in members if name not in today.index}
    if alpha:
        for name in present.index[present[alpha].isna().all(axis=1)]:
            reasons[str(name)] = "no Alpha feature has a value"
    if factors:
        for name in present.index[present[factors].isna().all(axis=1)]:
            reasons.setdefault(str(name), _why_without_mined(str(name), mined, complete_rows))
    return reasons


def _why_without_mined(name: str, mined: pd.DataFrame, complete_rows: bool) -> str:
    if name in mined.index and complete_rows:
        lacking = [str(factor) for factor in mined.columns if mined[factor].isna()[name]]
        if len(lacking) < len(mined.columns):
            return f"lacks {', '.join(lacking)}, and the model knows only stocks that have every mined factor"
    return "no mined factor has a value"


def find_incomplete(features: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Stocks that lack some features, with the names of these.

    Args:
        features: Raw values, index instrument.
    """
    missing = features.isna()
    rows = missing[missing.any(axis=1)]
    return {
        str(name): tuple(str(column) for column in rows.columns[row])
        for name, row in zip(rows.index, rows.to_numpy(), strict=True)
    }


def cover(members: Sequence[str], today: pd.DataFrame, mined: pd.DataFrame) -> Mapping[str, float]:
    """For each feature, the share of the market's stocks that have a value of it, 0 to 1.

    Args:
        members: The market's stocks on the day.
        today: Raw features of the day as the model takes them, index instrument.
        mined: The mined factors of the day before the join: what a factor itself covers.
    """
    shares = {}
    for name in today.columns:
        values = (mined if name in mined.columns else today)[name]
        known = values[values.notna()].index.intersection(pd.Index(members))
        shares[str(name)] = len(known) / len(members) if members else 0.0
    return shares

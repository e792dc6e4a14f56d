"""A model's raw features from market data: mined and Alpha, joined and ordered as they were for its training."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.scoring.alpha import alpha_request, compute_alpha, compute_live
from rdagent_sota_patch.scoring.mined import run_mined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import Join
    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.sandbox.limits import Limits
    from rdagent_sota_patch.scoring.market_days import MarketFiles
    from rdagent_sota_patch.scoring.mined import MinedFactor, Report

GAPS_KEY = "table_has_gaps"
"""In the manifest's diagnostics: whether the factor table lacked any value."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Raw features and what they cost.

    Attributes:
        frame: Index (datetime, instrument), sorted; columns exactly the model's input order; values before
            any processor.
        mined: The mined factors alone, with the values that the join left out; index likewise.
        factor_seconds: Spent on waiting for the factors' code.
        alpha_seconds: Spent on the Alpha features.
        alpha_by_qlib: Which of these Qlib computed itself.
    """

    frame: pd.DataFrame
    mined: pd.DataFrame
    factor_seconds: float
    alpha_seconds: float
    alpha_by_qlib: tuple[str, ...]


def compute_features(
    bundle: Bundle,
    market: MarketFiles,
    files: Mapping[MinedFactor, Path],
    days: pd.DatetimeIndex,
    *,
    as_trained: bool,
    limits: Limits,
    jobs: int,
    report: Report,
    trust: bool = False,
) -> Computed:
    """Compute what the model takes, for every stock of its market on ``days``.

    Args:
        bundle: Holds a model.
        market: The user's market data.
        files: The mined factors, from `list_mined`, each with the ``daily_pv.h5`` that its code is run on.
        days: Consecutive trading days, ascending.
        as_trained: All Alpha features by Qlib, from the day on which the training's data began; see `alpha_request`.
            Otherwise on arrays as far as these know them; see `compute_live`.
        limits: For each factor.
        jobs: Factors at a time, and Qlib's processes.
        report: Told about the progress.
        trust: Whether the user vouches for the bundle's code, as a signature does.

    Raises:
        BundleError: All problems with factors at once (see `run_mined`); ``alpha-failed``, ``factor-empty``
            for an Alpha feature without a value on the last day, ``model-input-mismatch``.
    """
    order, meta = bundle.model
    problems: list[Problem] = []
    mined, alpha, by_qlib = pd.DataFrame(), no_rows(), tuple(feature.name for feature in meta.alpha)
    start = time.perf_counter()
    try:
        mined = run_mined(
            files, days, limits=limits, jobs=jobs, report=report, trusted=trust or bundle.signed
        )
    except BundleError as error:
        problems += error.problems
    ran = time.perf_counter()
    report("alpha", 0, 1)
    try:
        # A factor table alone needs nothing of Qlib.
        if meta.alpha or meta.label:
            if as_trained:
                alpha = compute_alpha(alpha_request(meta, market.qlib_dir, days, as_trained=True, jobs=jobs))
            else:
                alpha, by_qlib = compute_live(meta, market.qlib_dir, days, jobs=jobs)
            problems += _find_empty(alpha, days[-1])
    except BundleError as error:
        problems += error.problems
    report("alpha", 1, 1)
    done = time.perf_counter()
    if problems:
        raise BundleError.of(problems)
    frame = join_features(
        alpha,
        mined,
        complete_rows=drops_incomplete_rows(bundle),
        join=order.join if mined.columns.size else "left",
    )
    return Computed(order_columns(frame, order.factor_order), mined, ran - start, done - ran, by_qlib)


def join_features(
    alpha: pd.DataFrame, mined: pd.DataFrame, *, complete_rows: bool, join: Join = "left"
) -> pd.DataFrame:
    """Alpha features with the mined ones beside them, on the rows that the training had.

    As Qlib joins them (``qlib/data/dataset/loader.py``, ``NestedDataLoader.load``): a mined factor takes the
    place of an Alpha feature of its name.

    Args:
        alpha: Index (datetime, instrument).
        mined: Likewise; may have other rows.
        complete_rows: Leave out rows of ``mined`` that lack any value, all of their values.
        join: Whose rows: those of ``alpha`` (``left``), of ``mined`` (``right``), of both or of either.
    """
    if complete_rows:
        mined = mined.dropna()
    kept = alpha.drop(columns=[name for name in mined.columns if name in alpha.columns])
    joined: pd.DataFrame = pd.merge(kept, mined, left_index=True, right_index=True, how=join)
    # What a processor adds up over a day's stocks, it adds up in the order of the rows.
    return joined if join == "left" else joined.sort_index()


def no_rows() -> pd.DataFrame:
    """A table of features without rows and columns, indexed by datetime and instrument."""
    index = pd.MultiIndex.from_arrays([pd.DatetimeIndex([]), pd.Index([], dtype=object)])
    frame: pd.DataFrame = pd.DataFrame(index=index.set_names(["datetime", "instrument"]))
    return frame


def order_columns(frame: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The columns in the model's input order, which must be exactly these.

    Raises:
        BundleError: ``model-input-mismatch``.
    """
    missing = [name for name in order if name not in frame.columns]
    extra = [str(name) for name in frame.columns if name not in order]
    if missing or extra:
        parts = [f"lacking {', '.join(missing)}"] if missing else []
        parts += [f"not the model's: {', '.join(extra)}"] if extra else []
        raise BundleError(
            "model-input-mismatch",
            f"The features are not the {len(order)} that the model takes: {'; '.join(parts)}.",
            "The bundle contradicts itself. Export the run again.",
        )
    ordered: pd.DataFrame = frame[list(order)]
    return ordered


def drops_incomplete_rows(bundle: Bundle) -> bool:
    """Whether the training saw only rows that every mined factor has a value for.

    RD-Agent drops the others once there are factors of two accepted experiments (``factor_runner.py``:
    ``pd.concat([SOTA_factor, new_factors], axis=1).dropna()``), and keeps them for a model on its own run's factors
    (``model_runner.py``). What the export saw in the table decides where it says that there were gaps.
    """
    manifest = bundle.manifest
    if manifest.diagnostics.get(GAPS_KEY) is True:
        return False
    from_factor_stage = manifest.stage == "factor" or manifest.provenance is not None
    loops = {factor.loop for factor in bundle.factors.factors if factor.in_table}
    return from_factor_stage and len(loops) > 1


def _find_empty(alpha: pd.DataFrame, day: pd.Timestamp) -> list[Problem]:
    today = alpha[alpha.index.get_level_values("datetime") == day]
    if not len(today):
        return [
            Problem(
                "market-data-too-short",
                f"Qlib has no stock of the model's market with data on {day:%Y-%m-%d}.",
                "Bring its features and instruments up to date.",
            )
        ]
    return [
        Problem(
            "factor-empty",
            f"{name}: no stock has a value of this Alpha feature on {day:%Y-%m-%d}.",
            "Check the fields that its expression names in Qlib's data.",
        )
        for name in alpha.columns
        if not today[name].notna().any()
    ]

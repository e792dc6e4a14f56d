"""Replaying a bundle's own back-test: the shipped slice through the shipped model, against the shipped predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import ValidationError

from rdagent_sota_patch.bundle.documents import PREDICTIONS_NAME, REPLAY_NAME, SLICE_NAME, ReplayNotes
from rdagent_sota_patch.bundle.opening import Bundle, open_bundle
from rdagent_sota_patch.errors import BundleError, TableError
from rdagent_sota_patch.factor_table.reading import open_parquet, read_whole
from rdagent_sota_patch.scoring.scoring import load_scorer, score_days

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.bundle.documents import ModelMeta
    from rdagent_sota_patch.scoring.scoring import Scorer

TORCH_LIMIT = 1e-6
"""How far torch's scores may be off: it adds in another order for other batches and machines. LightGBM's may not."""

_LEVELS = ["datetime", "instrument"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """Scores computed again, compared with the back-test's own.

    Attributes:
        rows: Scores compared.
        days: Days that they are of.
        max_difference: Largest absolute difference; infinite where one side has a row or number that the other lacks.
        rank_correlation: Spearman's, over all rows; None where either side has a single value, or none.
        exact_required: Whether the model is one whose scores must be equal to the last bit.
    """

    rows: int
    days: int
    max_difference: float
    rank_correlation: float | None
    exact_required: bool

    @property
    def limit(self) -> float:
        """The largest difference that is not a difference."""
        return 0.0 if self.exact_required else TORCH_LIMIT

    @property
    def within(self) -> bool:
        """Whether these are the back-test's scores."""
        return self.rows > 0 and self.max_difference <= self.limit


def compare_scores(scored: pd.Series, shipped: pd.Series, meta: ModelMeta) -> Replayed:
    """Hold scores to the back-test's.

    Args:
        scored: Computed again, by (datetime, instrument).
        shipped: The back-test's of the same days, likewise. The rows must be the same, in any order.
        meta: Of the model.
    """
    joined = shipped.index.union(scored.index)
    ours = scored.reindex(joined).to_numpy(dtype=np.float64)
    theirs = shipped.reindex(joined).to_numpy(dtype=np.float64)
    one_sided = not scored.index.isin(shipped.index).all() or not shipped.index.isin(scored.index).all()
    return Replayed(
        rows=len(joined),
        days=joined.get_level_values(0).nunique(),
        max_difference=math.inf if one_sided else _largest_difference(ours, theirs),
        rank_correlation=_correlate_ranks(ours, theirs),
        exact_required=meta.kind == "lightgbm",
    )


def replay_slice(bundle: Path | Bundle, *, trust: bool = False, scorer: Scorer | None = None) -> Replayed:
    """Feed the slice that a bundle brings through its model, and compare. Needs no market data.

    Args:
        bundle: Its folder, which is then opened and checked, or an opened bundle.
        trust: As for `load_scorer`.
        scorer: Of this bundle, if there is one already.

    Raises:
        BundleError: ``no-replay`` for a bundle without the slice, ``replay-damaged``, and what `open_bundle`,
            `load_scorer` and `score_days` raise. A difference is not an error here: see `Replayed.within`.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    order, meta = opened.model
    notes = read_notes(opened)
    raw = read_frame(opened, SLICE_NAME)
    if len(raw) != notes.slice_rows or set(raw.columns) != set(order.factor_order):
        raise _damaged(opened, f"{SLICE_NAME} is not the slice that {REPLAY_NAME} describes")
    days = [pd.Timestamp(day) for day in notes.days]
    # In the shipped order, which is what is put to the test, whatever order the slice was written in.
    scored = score_days(
        opened, scorer or load_scorer(opened, trust=trust), raw[list(order.factor_order)], days
    )
    shipped = read_shipped_scores(opened)
    return compare_scores(scored, shipped[shipped.index.get_level_values(0).isin(days)], meta)


def read_notes(bundle: Bundle) -> ReplayNotes:
    """Which days of the slice are compared.

    Raises:
        BundleError: ``no-replay``, ``replay-damaged``.
    """
    _require_replay(bundle)
    try:
        return ReplayNotes.model_validate_json(bundle.read(REPLAY_NAME))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _damaged(bundle, f"{REPLAY_NAME} cannot be read: {where}: {first['msg']}") from error


def read_shipped_scores(bundle: Bundle) -> pd.Series:
    """The back-test's predictions: ``score`` by (datetime, instrument).

    Raises:
        BundleError: ``no-replay``, ``replay-damaged``.
    """
    _require_replay(bundle)
    frame = read_frame(bundle, PREDICTIONS_NAME)
    if list(frame.columns) != ["score"] or not frame.index.is_unique:
        raise _damaged(bundle, f"{PREDICTIONS_NAME} does not hold one score per day and stock")
    return frame["score"]


def read_frame(bundle: Bundle, name: str) -> pd.DataFrame:
    """A parquet file of the bundle, indexed by (datetime, instrument), with columns of numbers.

    Raises:
        BundleError: ``bundle-altered``, ``replay-damaged``.
    """
    content = bundle.read(name)
    try:
        # In this thread alone: one of Arrow's that lets go of Python's bytes while Python ends aborts the process.
        with open_parquet(bundle.folder / name, content=content) as file:
            _require_types(file.schema_arrow)
            table = read_whole(file, bundle.folder / name)
        # Days that pandas cannot reckon with are refused here, whatever they are counted in.
        place = table.schema.names.index("datetime")
        table = table.set_column(place, "datetime", table.column(place).cast(pa.timestamp("ns")))
        # Without pandas' metadata, which may name types to be made; what it says is known here.
        plain = table.replace_schema_metadata(None)
        frame: pd.DataFrame = plain.to_pandas(use_threads=False).set_index(_LEVELS)
    except TableError as error:
        raise BundleError("replay-damaged", error.problems[0].message, _FETCH_AGAIN) from error
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise _damaged(bundle, f"{name} cannot be read: {error}") from error
    return frame


def _require_types(schema: pa.Schema) -> None:
    """See that all that is read are days without a zone, names of stocks, and numbers, each under a name of its own."""
    for field in schema:
        kind = field.type
        if field.name == "datetime":
            right = pa.types.is_timestamp(kind) and kind.tz is None
        elif field.name == "instrument":
            # Of null is the column of a table without rows.
            right = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
        else:
            right = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not right:
            raise ValueError(f"its column {field.name!r} holds {kind}")
    if len(set(schema.names)) != len(schema.names) or not set(_LEVELS) <= set(schema.names):
        raise ValueError("it does not hold numbers by datetime and instrument, or holds a column twice")


def _largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    unlike = (ours != theirs) & ~(np.isnan(ours) & np.isnan(theirs))
    if not unlike.any():
        return 0.0
    largest = np.max(np.abs(ours[unlike] - theirs[unlike]))
    return math.inf if np.isnan(largest) else float(largest)


def _correlate_ranks(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    both = ~(np.isnan(ours) | np.isnan(theirs))
    ranks = [pd.Series(side[both]).rank().to_numpy() for side in (ours, theirs)]
    if not both.any() or any(np.ptp(side) == 0 for side in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _require_replay(bundle: Bundle) -> None:
    missing = [
        name for name in (REPLAY_NAME, SLICE_NAME, PREDICTIONS_NAME) if name not in bundle.manifest.files
    ]
    if missing:
        raise BundleError(
            "no-replay",
            f"{bundle.folder} was exported without its evidence ({', '.join(missing)}), so nothing can be replayed.",
            "Export it again without --no-replay; its files are as its manifest says.",
        )


def _damaged(bundle: Bundle, text: str) -> BundleError:
    return BundleError("replay-damaged", f"{bundle.folder}: {text}.", _FETCH_AGAIN)


_FETCH_AGAIN = "Fetch the bundle again, or export it again."

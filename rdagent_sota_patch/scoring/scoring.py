"""From raw feature values to scores: the shipped processors, samples and model, in the shipped order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.booster import load_booster
from rdagent_sota_patch.scoring.network import load_network
from rdagent_sota_patch.scoring.processing import process
from rdagent_sota_patch.scoring.samples import select_rows, select_windows
from rdagent_sota_patch.scoring.unpickled import load_unpickled

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.sandbox.limits import Limits

_LEVELS = ["datetime", "instrument"]
_SHOWN_NAMES = 20


class Scorer(Protocol):
    """A bundle's model, ready to score."""

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Scores of processed samples, one each.

        Args:
            samples: Shape (n, features), or (n, step_len, features) for a TimeSeries model.

        Raises:
            BundleError: ``model-input-mismatch``.
        """


def load_scorer(bundle: Bundle, *, trust: bool, limits: Limits | None = None) -> Scorer:
    """Make a bundle's model ready.

    LightGBM is read from its text, and torch from safetensors with its ``model.py`` in a jail: neither unpickles, and
    neither runs a stranger's code unconfined. In a bundle that is trusted, or was opened with the key that signed it,
    ``model.py`` runs in this process, and a model of another kind is unpickled.

    Args:
        bundle: From `open_bundle`.
        trust: Whether the user vouches for the bundle.
        limits: For a model that runs confined.

    Raises:
        BundleError: ``bundle-without-model``, ``trust-needed``, ``live-extra-missing``, ``model-unreadable``,
            ``model-input-mismatch``, ``model-unknown``.
    """
    _, meta = bundle.model
    trusted = trust or bundle.signed
    if meta.kind == "lightgbm":
        return load_booster(bundle)
    if meta.kind == "torch":
        return load_network(bundle, trusted=trusted, limits=limits)
    return load_unpickled(bundle, trusted=trusted)


def score_days(bundle: Bundle, scorer: Scorer, raw: pd.DataFrame, days: Sequence[pd.Timestamp]) -> pd.Series:
    """Score days from raw feature values.

    Args:
        bundle: From `open_bundle`.
        scorer: Of that bundle.
        raw: Feature values before any processor, as Qlib's loader gives them. Index (datetime, instrument), without
            duplicates; columns exactly ``factor_order``, in that order. For a TimeSeries model with the rows of the
            ``step_len - 1`` trading days before each day.
        days: The days to score; each must have rows.

    Returns:
        ``score`` by (datetime, instrument), for every row that the processors leave of ``days``, in ``raw``'s order.

    Raises:
        BundleError: ``model-input-mismatch``, ``no-history``, ``processor-unknown``, ``bundle-without-model``.
    """
    order, meta = bundle.model
    _require_columns(raw, order.factor_order)
    _require_index(raw.index)
    processed = process(raw, meta.processors)
    if meta.step_len is None:
        samples, index = select_rows(processed, days)
    else:
        samples, index = select_windows(processed, days, meta.step_len)
    scores: pd.Series = pd.Series(scorer.predict(samples), index=index, name="score")
    return scores


def _require_columns(raw: pd.DataFrame, names: tuple[str, ...]) -> None:
    given = tuple(raw.columns)
    if given == names:
        return
    missing, extra = sorted(set(names) - set(given)), sorted(map(str, set(given) - set(names)))
    parts = [
        f"{what}: {', '.join(found[:_SHOWN_NAMES])}"
        for what, found in (("missing", missing), ("not the model's", extra))
        if found
    ]
    text = "; ".join(parts) or "the same features in another order, or one of them twice"
    raise BundleError(
        "model-input-mismatch",
        f"The feature values are not the {len(names)} that the model was trained on: {text}.",
        "Give exactly the columns of factor_order.json, in its order: in another order, scores are silently wrong.",
    )


def _require_index(index: pd.Index[Any]) -> None:
    if list(index.names) != _LEVELS or not index.is_unique:
        raise BundleError(
            "model-input-mismatch",
            f"Feature values must have one row per datetime and instrument; theirs are by {list(index.names)}, "
            f"{'each once' if index.is_unique else 'some twice'}.",
            "Give a frame indexed by (datetime, instrument).",
        )

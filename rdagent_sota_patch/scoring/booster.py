"""A LightGBM model as a scorer, from LightGBM's own text format: nothing is unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.booster_text import take_sound_trees
from rdagent_sota_patch.scoring.inputs import require_features, require_live

if TYPE_CHECKING:
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle


@dataclass(frozen=True, slots=True)
class BoosterScorer:
    """A ``lightgbm.Booster`` with the number of features that it was trained on."""

    where: Path
    booster: Any
    features: int

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Scores of processed samples; see `Scorer`.

        Raises:
            BundleError: ``model-input-mismatch``.
        """
        require_features(self.where, samples, self.features)
        if not len(samples):
            return np.empty(0)
        return np.asarray(self.booster.predict(samples))


def load_booster(bundle: Bundle) -> BoosterScorer:
    """The scorer of a LightGBM model.

    Raises:
        BundleError: ``live-extra-missing``, ``model-unreadable``, ``model-input-mismatch``.
    """
    order, meta = bundle.model
    require_live("lightgbm")
    import lightgbm

    if meta.weights.booster_relpath is None:
        raise BundleError("bundle-damaged", f"{bundle.folder} names no model.txt.", "Export the run again.")
    content = bundle.read(meta.weights.booster_relpath)
    try:
        booster = lightgbm.Booster(model_str=take_sound_trees(content.decode("utf-8")))
    except (UnicodeDecodeError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise BundleError(
            "model-unreadable",
            f"{bundle.folder / meta.weights.booster_relpath} is no LightGBM model: {error}.",
            "Export the run again.",
        ) from error
    features = len(order.factor_order)
    if booster.num_feature() != features:
        raise BundleError(
            "model-input-mismatch",
            f"The model of {bundle.folder} was trained on {booster.num_feature()} features, and {features} are listed.",
            "These weights belong to another model: export the run again.",
        )
    return BoosterScorer(bundle.folder, booster, features)

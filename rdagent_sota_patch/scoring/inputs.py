"""What every scorer asks of the machine and of its samples."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


def require_live(*modules: str) -> None:
    """See that what a model needs is installed; imports nothing.

    Raises:
        BundleError: ``live-extra-missing``.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise BundleError(
            "live-extra-missing",
            f"Scoring with this bundle needs {' and '.join(missing)}, which is not installed.",
            "pip install 'rdagent-sota-patch[live]'",
        )


def require_features(where: Path, samples: np.ndarray, features: int) -> None:
    """See that samples have as many features as a model takes.

    Raises:
        BundleError: ``model-input-mismatch``.
    """
    if samples.shape[-1] != features:
        raise BundleError(
            "model-input-mismatch",
            f"The model of {where} takes {features} features, and is given {samples.shape[-1]}.",
            "These weights belong to another model, or the features to another bundle: export the run again.",
        )

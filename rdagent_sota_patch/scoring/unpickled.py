"""A model that only its pickle holds, as a scorer: unpickling runs whatever the file says, so it takes trust."""

from __future__ import annotations

import pickle
import sys
import types
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.samples import require_features, require_live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle

# Under this name RD-Agent's templates import an experiment's model.py (`pt_model_uri: model.model_cls`).
_CODE_MODULE = "model"


@dataclass(frozen=True, slots=True)
class UnpickledScorer:
    """A Qlib model, unpickled."""

    where: Path
    model: Any
    names: tuple[str, ...]

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Scores of processed samples, by the model's own ``predict`` on a data set of just these.

        Raises:
            BundleError: ``model-input-mismatch``, ``model-unreadable``.
        """
        require_features(self.where, samples, len(self.names))
        frame = pd.DataFrame(samples, columns=list(self.names))
        try:
            scores = np.asarray(self.model.predict(_Rows(frame)), dtype=np.float64).reshape(-1)
        except BundleError:
            raise
        # Any model may come here, with any error.
        except Exception as error:
            raise _unusable(self.where, error) from error
        if len(scores) != len(samples):
            raise BundleError(
                "model-input-mismatch",
                f"The model of {self.where} gives {len(scores)} scores for {len(samples)} samples.",
                "Score this model with Qlib itself.",
            )
        return scores


class _Rows:
    """As much of Qlib's ``DatasetH`` as a tabular model's ``predict`` asks for."""

    def __init__(self, features: pd.DataFrame) -> None:
        self._features = features

    def prepare(self, segments: Any, col_set: Any = "feature", **options: Any) -> pd.DataFrame:
        """The samples' features, whatever the segment."""
        if col_set == "feature":
            return self._features
        raise BundleError(
            "model-input-mismatch",
            f"The model asks for the columns {col_set!r} where it predicts, and a new day has features alone.",
            "Score this model with Qlib itself.",
        )


def load_unpickled(bundle: Bundle, *, trusted: bool) -> UnpickledScorer:
    """The scorer of a model that only its pickle holds.

    Raises:
        BundleError: ``trust-needed``, ``model-unreadable``, ``live-extra-missing``; ``model-unknown`` for a
            TimeSeries model.
    """
    order, meta = bundle.model
    if not trusted:
        raise BundleError(
            "trust-needed",
            f"The model of {bundle.folder} is known from its pickle alone, and to unpickle is to run what it says.",
            "Give --trust if you know where it comes from, or --key-file if you have signed it yourself.",
        )
    if meta.step_len is not None:
        raise BundleError(
            "model-unknown",
            f"{bundle.folder} holds a TimeSeries model of class {meta.model.get('class')!r}, which is not known here.",
            "Score this model with Qlib itself.",
        )
    require_live("qlib")
    code = meta.weights.code_relpath
    content = bundle.read(meta.weights.pickle_relpath)
    try:
        with _importable(None if code is None else bundle.read(code)):
            model = pickle.loads(content)
    except BundleError:
        raise
    # Unpickling calls what the file names, which may raise anything.
    except Exception as error:
        raise _unusable(bundle.folder, error) from error
    return UnpickledScorer(bundle.folder, model, order.factor_order)


@contextmanager
def _importable(code: bytes | None) -> Iterator[None]:
    """``model.py`` under the name by which a pickled network looks for its class."""
    if code is None:
        yield
        return
    former = sys.modules.get(_CODE_MODULE)
    module = types.ModuleType(_CODE_MODULE)
    sys.modules[_CODE_MODULE] = module
    try:
        exec(compile(code, "model.py", "exec"), module.__dict__)
        yield
    finally:
        if former is None:
            del sys.modules[_CODE_MODULE]
        else:
            sys.modules[_CODE_MODULE] = former


def _unusable(where: Path, error: Exception) -> BundleError:
    return BundleError(
        "model-unreadable",
        f"The model of {where} cannot be used: {type(error).__name__}: {error}.",
        "It may need the packages, in the versions, that manifest.json names.",
    )

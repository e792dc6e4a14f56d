"""A torch model as a scorer: its ``model.py`` in a jail, or in this process where it is trusted."""

from __future__ import annotations

import io
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.bundle.contents import read_bounded
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.probe import what_confines
from rdagent_sota_patch.scoring import network_program
from rdagent_sota_patch.scoring.network_program import (
    CODE,
    OUTCOME,
    REQUEST,
    SAMPLES,
    SCORES,
    TENSORS,
    NetworkError,
    score_network,
)
from rdagent_sota_patch.scoring.samples import require_features, require_live

if TYPE_CHECKING:
    from rdagent_sota_patch.bundle.opening import Bundle

_PROGRAM = f"{Path(network_program.__file__).read_text(encoding='utf-8')}\n\nmain()\n"
_MAX_OUTCOME_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class NetworkScorer:
    """A network built from ``model.py`` and safetensors again for each call.

    Attributes:
        where: The bundle's folder, for messages.
        code: Text of ``model.py``.
        tensors: The weights, as safetensors.
        kwargs: What ``model_cls`` is called with.
        features: How many features a sample has.
        batch_size: As ``GeneralPTNN`` was given it.
        limits: Bounds of the confined process; None to run it in this one, unconfined.
    """

    where: Path
    code: bytes
    tensors: bytes
    kwargs: dict[str, Any]
    features: int
    batch_size: int
    limits: Limits | None

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Scores of processed samples; see `Scorer`.

        Raises:
            BundleError: ``model-input-mismatch``, ``network-failed``, or what `Jail.run` raises.
        """
        require_features(self.where, samples, self.features)
        # As GeneralPTNN: `feature.float()`.
        inputs = np.ascontiguousarray(samples, dtype=np.float32)
        if self.limits is not None:
            return self._predict_confined(inputs, self.limits)
        try:
            return score_network(self.code, self.tensors, self.kwargs, inputs, self.batch_size)
        except NetworkError as error:
            raise _failed(self.where, str(error), mismatch=error.mismatch) from error

    def _predict_confined(self, samples: np.ndarray, limits: Limits) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="rdagent-sota-") as name:
            folder = Path(name)
            (folder / CODE).write_bytes(self.code)
            (folder / TENSORS).write_bytes(self.tensors)
            np.save(folder / SAMPLES, samples, allow_pickle=False)
            request = {"kwargs": self.kwargs, "batch_size": self.batch_size}
            (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
            inputs = {file: folder / file for file in (CODE, TENSORS, SAMPLES, REQUEST)}
            with Jail() as jail:
                subject = f"The network of {self.where}"
                ran = jail.run(
                    _PROGRAM, inputs=inputs, outputs=(SCORES, OUTCOME), limits=limits, subject=subject
                )
                _require_success(self.where, ran.outputs[OUTCOME])
                return _read_scores(self.where, ran.outputs[SCORES], len(samples))


def load_network(bundle: Bundle, *, trusted: bool, limits: Limits | None = None) -> NetworkScorer:
    """The scorer of a torch model.

    Args:
        bundle: A bundle with a torch model.
        trusted: Whether ``model.py`` may run in this process.
        limits: Of the confined process, otherwise.

    Raises:
        BundleError: ``live-extra-missing``; ``trust-needed`` when the code is not trusted and this system cannot
            confine it; ``model-input-mismatch``.
    """
    order, meta = bundle.model
    require_live("torch", "safetensors")
    if not trusted:
        what_confines().require_trust(f"The model of {bundle.folder} is Python code (model.py).")
    options = meta.network
    count = options.pt_model_kwargs.get("num_features", len(order.factor_order))
    if count != len(order.factor_order):
        raise BundleError(
            "model-input-mismatch",
            f"The model of {bundle.folder} was built for {count} features, and {len(order.factor_order)} are listed.",
            "These weights belong to another model: export the run again.",
        )
    weights = meta.weights
    if weights.code_relpath is None or weights.tensors_relpath is None:
        raise BundleError(
            "bundle-damaged", f"{bundle.folder} names no model.py or no tensors.", "Export it again."
        )
    return NetworkScorer(
        where=bundle.folder,
        code=bundle.read(weights.code_relpath),
        tensors=bundle.read(weights.tensors_relpath),
        kwargs=options.pt_model_kwargs,
        features=len(order.factor_order),
        batch_size=options.batch_size,
        limits=None if trusted else limits or Limits(),
    )


def _require_success(where: Path, path: Path) -> None:
    # Written by the confined program, so by anybody.
    try:
        with path.open("rb") as file:
            outcome = json.loads(file.read(_MAX_OUTCOME_BYTES))
        error, mismatch = outcome["error"], outcome["mismatch"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as problem:
        raise _failed(where, "it does not say how it ended", mismatch=False) from problem
    if error is not None:
        raise _failed(where, str(error), mismatch=bool(mismatch))


def _read_scores(where: Path, path: Path, count: int) -> np.ndarray:
    # The confined program is of this Python and numpy: what it saves begins as what is saved here. Nothing else is
    # read, since nothing that reads other forms was made for what a stranger wrote.
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
    size = head.tell() + 4 * count
    try:
        content = read_bounded(path, size)
    except OSError as error:
        raise _failed(where, f"it leaves no scores: {error}", mismatch=False) from error
    if len(content) != size or not content.startswith(head.getvalue()):
        raise _failed(where, f"it leaves no scores for {count} samples", mismatch=False)
    scores: np.ndarray = np.frombuffer(content, dtype="<f4", offset=head.tell()).copy()
    return scores


def _failed(where: Path, text: str, *, mismatch: bool) -> BundleError:
    if mismatch:
        hint = "Weights, model.py and features do not belong together: export the run again."
        return BundleError("model-input-mismatch", f"The network of {where} cannot be used: {text}.", hint)
    hint = "It must run with nothing but torch and numpy, offline; --trust runs it unconfined."
    return BundleError("network-failed", f"The network of {where} cannot be used: {text}.", hint)

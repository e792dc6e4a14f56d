"""Scoring with a bundle's ``model.py``: also the whole program of a confined process.

The jail gets this file's text, which so may import nothing of this package, and a call of `main`. For models that are
trusted, `score_network` is called in the process itself. Either way the code of ``model.py`` runs, and only here.
"""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

CODE, TENSORS, SAMPLES, REQUEST = "model.py", "model.safetensors", "samples.npy", "request.json"
"""What a confined process finds in its folder."""

SCORES, OUTCOME = "scores.npy", "outcome.json"
"""What it leaves there: scores, and whether it came to them."""

_SHOWN_CHARACTERS = 1000


class NetworkError(Exception):
    """The network cannot be built, does not fit its weights, or does not take the samples.

    Attributes:
        mismatch: Whether weights, code and samples do not belong together, rather than the code failing by itself.
    """

    def __init__(self, text: str, *, mismatch: bool) -> None:
        super().__init__(text)
        self.mismatch = mismatch


def score_network(
    code: bytes, tensors: bytes, kwargs: Mapping[str, Any], samples: np.ndarray, batch_size: int
) -> np.ndarray:
    """Build the network as ``GeneralPTNN`` did, fill in its weights, and score as its ``predict`` does. Runs ``code``.

    Args:
        code: Text of ``model.py``, which defines ``model_cls``.
        tensors: The weights, as safetensors.
        kwargs: What ``model_cls`` was called with (``pt_model_kwargs``).
        samples: Shape (n, features) or (n, step_len, features).
        batch_size: Samples to score at once, as ``GeneralPTNN`` did in the back-test.

    Returns:
        Shape (n,), float32.

    Raises:
        NetworkError: It cannot be done.
    """
    import torch

    # Building a network draws random numbers, and sets seeds, as its author likes.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = _build(code, tensors, kwargs)
        batches = [
            _score_batch(network, samples[start : start + batch_size], batch_size)
            for start in range(0, len(samples), batch_size)
        ]
        scores: np.ndarray = (torch.cat(batches) if batches else torch.empty(0)).numpy()
    return scores


def main() -> None:
    """Score what lies in this folder."""
    import numpy as np

    request = json.loads(Path(REQUEST).read_text(encoding="utf-8"))
    outcome: dict[str, Any] = {"error": None, "mismatch": False}
    try:
        scores = score_network(
            Path(CODE).read_bytes(),
            Path(TENSORS).read_bytes(),
            request["kwargs"],
            np.load(SAMPLES, allow_pickle=False),
            request["batch_size"],
        )
        np.save(SCORES, scores, allow_pickle=False)
    except NetworkError as error:
        np.save(SCORES, np.empty(0, dtype=np.float32), allow_pickle=False)
        outcome = {"error": str(error), "mismatch": error.mismatch}
    Path(OUTCOME).write_text(json.dumps(outcome), encoding="utf-8")


def _build(code: bytes, tensors: bytes, kwargs: Mapping[str, Any]) -> Any:
    import safetensors.torch

    module = types.ModuleType("model")
    try:
        exec(compile(code, CODE, "exec"), module.__dict__)
        network = module.model_cls(**kwargs)
        network.eval()
    except (Exception, SystemExit) as error:
        raise NetworkError(_describe("its code fails", error), mismatch=False) from error
    try:
        network.load_state_dict(safetensors.torch.load(tensors))
    except (RuntimeError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise NetworkError(_describe("its code does not fit its weights", error), mismatch=True) from error
    return network


def _score_batch(network: Any, samples: np.ndarray, batch_size: int) -> Any:
    import torch

    # Torch adds in an order that depends on the batch's length. Filled up to the length of the back-test's batches, a
    # few samples get the scores that they had among many: to the last bit, as a rule.
    batch = torch.from_numpy(samples).float()
    batch = torch.cat([batch, batch[-1:].expand(batch_size - len(batch), *batch.shape[1:])])
    try:
        scores = network(batch).detach().cpu().float().reshape(-1)
    except (Exception, SystemExit) as error:
        raise NetworkError(_describe("it fails on the samples", error), mismatch=True) from error
    if len(scores) != batch_size:
        raise NetworkError(f"it gives {len(scores)} scores for {batch_size} samples", mismatch=True)
    return scores[: len(samples)]


def _describe(what: str, error: BaseException) -> str:
    return f"{what}: {type(error).__name__}: {error}"[:_SHOWN_CHARACTERS]

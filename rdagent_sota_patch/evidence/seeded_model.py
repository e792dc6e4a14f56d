"""A model's code with a seed set around it, to be trained again as a run trained it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

CODE_NAME = "model.py"
"""What RD-Agent's templates import the model from (``pt_model_uri: "model.model_cls"``)."""

ATTEMPTS = 3
"""About one back-test in ten fails for a reason of MLflow's (docs/facts.md)."""

_Result = TypeVar("_Result")

_INNER_NAME = "model_of_run.py"

# RD-Agent's templates set no seed. Qlib's own (`seed` of GeneralPTNN) would be set after the network is made, which
# leaves its first weights to chance. A network that sets a seed of its own would be the same one every time: that seed
# is shifted. Seeds of numpy have 32 bits.
_SEEDED = '''\
"""Written by rdagent-sota-patch: the model of the run (model_of_run.py), trained with seed {seed}."""

import numbers
import random

import numpy
import torch

OFFSET = 1000003 * {seed}


def _shift(set_seed):
    def set_shifted(given=None, *args, **kwargs):
        given = 0 if given is None else given
        return set_seed((given + OFFSET) % 2**32 if isinstance(given, numbers.Integral) else given, *args, **kwargs)

    return set_shifted


random.seed, numpy.random.seed, torch.manual_seed = map(
    _shift, (random.seed, numpy.random.seed, torch.manual_seed)
)
for _set_seed in (random.seed, numpy.random.seed, torch.manual_seed):
    _set_seed()

from model_of_run import model_cls  # noqa: E402, F401
'''


class TrainingFailedError(Exception):
    """A training that failed; says why."""


def repeat_training(train: Callable[[], _Result]) -> _Result:
    """What ``train`` gives, which is called up to `ATTEMPTS` times.

    Raises:
        TrainingFailedError: That of the last.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(TrainingFailedError):
            return train()
    return train()


def seeded_files(code: str, seed: int) -> dict[str, str]:
    """What takes the place of ``model.py``, by file name: its text, and a ``model.py`` that sets the seed before it."""
    return {CODE_NAME: _SEEDED.format(seed=seed), _INNER_NAME: code}

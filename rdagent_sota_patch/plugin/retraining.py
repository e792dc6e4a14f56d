"""Train a model experiment again with a seed: by the run's own runner, on its template, factors and dates."""

from __future__ import annotations

import copy
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.core.exception import ModelEmptyError

from rdagent_sota_patch.evidence.seeded_model import (
    CODE_NAME,
    TrainingFailedError,
    repeat_training,
    seeded_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_trainable(experiment: Any) -> bool:
    """Whether an experiment has a model's code to train."""
    spaces = experiment.sub_workspace_list
    return bool(spaces) and spaces[0] is not None and isinstance(spaces[0].file_dict.get(CODE_NAME), str)


def train_with_seed(runner: Any, experiment: Any, seed: int) -> Any:
    """The result (a Series of Qlib's metrics) of training ``experiment`` with ``seed``; the experiment stays as it is.

    Args:
        runner: The run's model runner. It is given a copy of the experiment, in a workspace of its own that is removed
            afterwards, and no run cache.
        experiment: A ``QlibModelExperiment`` that `is_trainable`.

    Raises:
        TrainingFailedError: It failed three times.
        SotaError: The run's SOTA factors cannot be used any more.
    """
    return repeat_training(lambda: _train_once(runner, _copy_with_seed(experiment, seed)))


def _train_once(runner: Any, twin: Any) -> Any:
    try:
        with _without_cache():
            return runner.develop(twin).result
    except ModelEmptyError as error:
        lines = str(error).strip().splitlines()
        raise TrainingFailedError(lines[-1] if lines else "no result") from error
    finally:
        twin.experiment_workspace.clear()


def _copy_with_seed(experiment: Any, seed: int) -> Any:
    twin = copy.copy(experiment)
    twin.running_info = copy.copy(experiment.running_info)
    twin.result = None
    twin.based_experiments = list(experiment.based_experiments)
    # The plugin's own record of the run's training; the runner makes one of this.
    vars(twin).pop("sota_source", None)
    task_space = copy.copy(experiment.sub_workspace_list[0])
    seeded = seeded_files(experiment.sub_workspace_list[0].file_dict[CODE_NAME], seed)
    task_space.file_dict = {**task_space.file_dict, CODE_NAME: seeded[CODE_NAME]}
    twin.sub_workspace_list = [task_space]
    space = copy.copy(experiment.experiment_workspace)
    files = {name: text for name, text in space.file_dict.items() if isinstance(text, str)}
    space.file_dict = {}
    space.workspace_path = RD_AGENT_SETTINGS.workspace_path / uuid.uuid4().hex
    space.inject_files(**{**files, **seeded})
    twin.experiment_workspace = space
    return twin


@contextmanager
def _without_cache() -> Iterator[None]:
    """RD-Agent's own key for a run is the text of its tasks: it would give the run's result for every seed."""
    before = RD_AGENT_SETTINGS.cache_with_pickle
    RD_AGENT_SETTINGS.cache_with_pickle = False
    try:
        yield
    finally:
        RD_AGENT_SETTINGS.cache_with_pickle = before

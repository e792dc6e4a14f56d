"""The model runner: RD-Agent's own, fed with SOTA factors when they are asked for."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdagent.core.conf import RD_AGENT_SETTINGS
from rdagent.core.utils import cache_with_pickle
from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factor_table.sources import METRICS_NAME, TABLE_NAME
from rdagent_sota_patch.plugin.active import ActiveSota, active_sota
from rdagent_sota_patch.plugin.feeding import feeding
from rdagent_sota_patch.plugin.inheritance import without_inherited
from rdagent_sota_patch.plugin.traits import installed_traits
from rdagent_sota_patch.plugin.usage import (
    USAGE_NAME,
    add_model_metrics,
    describe_segments,
    describe_source,
    now,
    prove_usage,
    require_proof,
    write_usage,
)
from rdagent_sota_patch.sessions.trace import EMBEDDED_NAMES
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

# The bare function: the decorator's cache key is the text of the tasks alone, so that with other factors, code or
# dates it would hand out the result of another experiment.
_develop_upstream = QlibModelRunner.develop.__wrapped__


class SotaModelRunner(QlibModelRunner):
    """``QlibModelRunner`` on SOTA factors; without a ``LOAD_SOTA_*`` it is the original in every respect.

    It holds no state: sessions name it by the original's path, and load where this package is not installed.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have a user's own runner prove that it trained on the SOTA factors."""
        super().__init_subclass__(**kwargs)
        own_develop = cls.__dict__.get("develop")
        if own_develop is not None:
            setattr(cls, "develop", _require_sota(own_develop))  # noqa: B010 - methods are not assigned to otherwise

    def develop(self, exp: Any) -> Any:
        """Train and back-test a ``QlibModelExperiment``; see ``QlibModelRunner.develop``.

        Raises:
            SotaError: The SOTA factors that were asked for cannot be used.
        """
        if active_sota() is None:
            return super().develop(exp)
        return _develop_cached(self, exp)


def attach_model_runner(module: ModuleType) -> None:
    """Put ``SotaModelRunner`` in the place of ``QlibModelRunner``, under its name."""
    SotaModelRunner.__module__ = QlibModelRunner.__module__
    SotaModelRunner.__qualname__ = QlibModelRunner.__qualname__
    SotaModelRunner.__name__ = QlibModelRunner.__name__
    setattr(module, SotaModelRunner.__name__, SotaModelRunner)


def run_key(runner: Any, exp: Any) -> str:
    """The run-cache key: all that decides a model's result, and nothing of when or where it ran."""
    sota = _required_sota()
    return hashlib.sha256(
        json.dumps(
            {
                "fingerprint": sota.table.fingerprint,
                "use_alpha": sota.use_alpha,
                "base_features": dict(installed_traits().features_of(exp)),
                "segments": describe_segments(sota.segments),
                "tasks": [task.get_task_information() for task in exp.sub_tasks],
                "model_type": [task.model_type for task in exp.sub_tasks],
                "training": [task.training_hyperparameters for task in exp.sub_tasks],
                "code": [_code_of(workspace) for workspace in exp.sub_workspace_list],
                "templates": _code_of(exp.experiment_workspace),
                "own_factors": [
                    _code_of(workspace)
                    for other in without_inherited(exp.based_experiments)
                    if isinstance(other, QlibFactorExperiment)
                    for workspace in other.sub_workspace_list
                ],
            },
            sort_keys=True,
            default=str,
        ).encode()
    ).hexdigest()


def _reuse(runner: Any, exp: Any, cached_res: Any) -> Any:
    """Take a cached run over, workspace included; run again when that workspace is not whole any more."""
    workspace = cached_res.experiment_workspace
    if not _is_whole(workspace.workspace_path):
        logger.info(
            f"The cached run's workspace is gone or incomplete, so it runs again: {workspace.workspace_path}"
        )
        folder = f"{_develop.__module__}.{_develop.__name__}"
        cache = RD_AGENT_SETTINGS.pickle_cache_folder_path_str
        (Path(cache) / folder / f"{run_key(runner, exp)}.pkl").unlink(missing_ok=True)
        return _develop_cached(runner, exp)
    logger.info(
        f"Result taken from the run cache, with the workspace of that run: {workspace.workspace_path}"
    )
    exp.result = cached_res.result
    exp.stdout = cached_res.stdout
    exp.experiment_workspace = workspace
    usage = {**cached_res.sota_source, **describe_source(_required_sota())}
    # What an older release of this package kept has none yet.
    exp.sota_source = usage if "proof" in usage else prove_usage(usage, workspace.workspace_path)
    _require(exp.sota_source, workspace.workspace_path)
    return exp


def _develop(runner: Any, exp: Any) -> Any:
    sota, begun = _required_sota(), now()
    with feeding(exp, sota):
        exp = _develop_upstream(runner, exp)
    if getattr(exp, "sota_source", None) is None:
        raise HostError(
            "runner-without-sota",
            f"{_develop_upstream.__code__.co_filename}: QlibModelRunner.develop came back without a back-test in the "
            "experiment's workspace, so nothing shows which factors its model was trained on.",
            "The plugin needs it to call exp.experiment_workspace.execute; or switch LOAD_SOTA_* off.",
        )
    workspace = exp.experiment_workspace.workspace_path
    exp.sota_source = prove_usage(add_model_metrics(exp.sota_source, exp.result), workspace, begun)
    write_usage(workspace, exp.sota_source)
    _require(exp.sota_source, workspace)
    model = exp.sota_source["model"]
    logger.info(
        f"Model {model['name']} ({model['model_type']}) on {exp.sota_source['num_features']} features, "
        f"{len(sota.table.names)} of them SOTA factors: IC {model['metrics'].get('IC')} "
        f"(the factors' own run: IC {sota.source.metrics.get('IC')}); workspace "
        f"{workspace}"
    )
    return exp


_develop_cached = cache_with_pickle(run_key, _reuse)(_develop)


def _require(usage: Mapping[str, Any], workspace: Path) -> None:
    require_proof(usage, workspace, strict=load_settings().sota_strict)


def _required_sota() -> ActiveSota:
    sota = active_sota()
    assert sota is not None
    return sota


def _code_of(workspace: Any) -> dict[str, str]:
    """A workspace's files by name: text as it is, anything else by its hash; a back-test's weights are no input."""
    if workspace is None:
        return {}
    return {
        name: content if isinstance(content, str) else hashlib.sha256(bytes(content)).hexdigest()
        for name, content in workspace.file_dict.items()
        if name not in EMBEDDED_NAMES
    }


def _is_whole(workspace: Path) -> bool:
    """Whether a workspace holds what a run leaves: table, record, metrics, returns and recorder."""
    files = (TABLE_NAME, USAGE_NAME, METRICS_NAME, "model.py")
    return (
        all((workspace / name).is_file() for name in files)
        and any((workspace / name).is_file() for name in installed_traits().returns_names)
        and any((workspace / "mlruns").glob("*/*/artifacts/params.pkl"))
    )


def _require_sota(develop: Any) -> Any:
    @functools.wraps(develop)
    def develop_and_check(self: Any, exp: Any) -> Any:
        outcome = develop(self, exp)
        sota = active_sota()
        used = getattr(outcome, "sota_source", None)
        if sota is not None and (used is None or used["fingerprint"] != sota.table.fingerprint):
            raise HostError(
                "runner-without-sota",
                f"{type(self).__module__}.{type(self).__qualname__}.develop did not train on the SOTA factors.",
                "Have it call super().develop(exp), or switch LOAD_SOTA_* off.",
            )
        return outcome

    return develop_and_check

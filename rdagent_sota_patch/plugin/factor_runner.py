"""``fin_quant`` on SOTA factors: its factor loops, too, are back-tested and judged on top of them.

``QlibFactorRunner.develop`` joins new factors to those of ``based_experiments`` and leaves out what is nearly one
of them (``rdagent/scenarios/qlib/developer/factor_runner.py``). During ``develop`` the SOTA table is
there, as a synthetic experiment, so that upstream's own code does both. The table that it writes then holds the SOTA
factors and the run's own; ``fin_factor`` is left alone.
"""

from __future__ import annotations

import functools
import math
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rdagent.log import rdagent_logger as logger
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment
from rdagent.scenarios.qlib.experiment.quant_experiment import QlibQuantScenario

from rdagent_sota_patch import __version__
from rdagent_sota_patch.errors import HostError
from rdagent_sota_patch.factor_table.combining import combine_features
from rdagent_sota_patch.factor_table.schema import read_names
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.plugin.active import ActiveSota, active_sota
from rdagent_sota_patch.plugin.feeding import put_in_front, require_unchanged
from rdagent_sota_patch.plugin.inheritance import complete_result, without_inherited
from rdagent_sota_patch.plugin.synthetic import make_base, make_sota_experiment
from rdagent_sota_patch.plugin.traits import installed_traits
from rdagent_sota_patch.plugin.usage import (
    SCHEMA_VERSION,
    describe_source,
    now,
    prove_usage,
    require_proof,
    write_usage,
)
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import pandas as pd

FACTOR_RUNNER_MODULE = "rdagent.scenarios.qlib.developer.factor_runner"

_ATTACHED = "__rdagent_sota_patch_attached__"

_JUDGED_BY = (
    "IC",
    "1day.excess_return_with_cost.annualized_return",
    "1day.excess_return_with_cost.max_drawdown",
)
"""What upstream's feedback compares (``rdagent/scenarios/qlib/developer/feedback.py``, ``IMPORTANT_METRICS``)."""


def attach_factor_runner(module: ModuleType) -> None:
    """Wrap ``QlibFactorRunner.develop``; the class, which sessions name, stays the original.

    Raises:
        HostError: It is not the decorated function that the plugin knows.
    """
    runner_class = getattr(module, "QlibFactorRunner", None)
    cached = getattr(runner_class, "develop", None)
    if getattr(cached, _ATTACHED, False):
        return
    bare = getattr(cached, "__wrapped__", None)
    if runner_class is None or cached is None or bare is None:
        raise HostError(
            "host-changed", f"{module.__name__}.QlibFactorRunner.develop is not a cached function."
        )

    def develop(self: Any, exp: Any) -> Any:
        # A baseline is built on nothing, and stays upstream's.
        if not isinstance(self.scen, QlibQuantScenario) or not exp.based_experiments:
            return cached(self, exp)
        sota = active_sota()
        return cached(self, exp) if sota is None else _develop_on_sota(self, exp, sota, bare)

    # `__wrapped__` stays the bare function, as callers of upstream's decorator know it.
    functools.update_wrapper(develop, bare)
    setattr(develop, _ATTACHED, True)
    runner_class.develop = develop


def require_factor_runner(runner: Any) -> None:
    """Make sure that a ``fin_quant`` run's factor runner will work on top of the SOTA factors.

    Raises:
        HostError: It is none that could.
    """
    module = sys.modules.get(FACTOR_RUNNER_MODULE)
    if module is not None:
        attach_factor_runner(module)
    if not any(getattr(vars(base).get("develop"), _ATTACHED, False) for base in type(runner).__mro__):
        raise HostError(
            "runner-without-sota",
            f"The factor runner {type(runner).__module__}.{type(runner).__qualname__} is not a QlibFactorRunner, "
            "so its factors cannot be judged on top of the SOTA factors.",
            f"Derive it from {FACTOR_RUNNER_MODULE}.QlibFactorRunner, or switch LOAD_SOTA_* off.",
        )


def _develop_on_sota(runner: Any, exp: Any, sota: ActiveSota, develop: Any) -> Any:
    """Develop ``exp`` without upstream's run cache, whose key knows nothing of the SOTA factors."""
    require_unchanged(sota)
    for other in exp.based_experiments:
        if other.result is None:
            # What the new factors are judged against: not the Alpha features alone, but the SOTA factors' result.
            other.result = _sota_result(runner, exp, sota, develop)
    begun = now()
    with _on_top_of(exp, sota):
        exp = develop(runner, exp)
    workspace = exp.experiment_workspace.workspace_path
    names = read_names(workspace / TABLE_NAME)
    usage = {
        "schema_version": SCHEMA_VERSION,
        "written_by": f"rdagent-sota-patch {__version__}",
        **describe_source(sota),
        "table_factors": list(names),
    }
    exp.sota_source = prove_usage(usage, workspace, begun)
    write_usage(workspace, exp.sota_source)
    require_proof(exp.sota_source, workspace, strict=load_settings().sota_strict)
    new = [name for name in names if name not in sota.table.names]
    logger.info(
        f"Factors back-tested on top of {len(sota.table.names)} SOTA factors: "
        f"{', '.join(new) or 'none of another name'}; {len(names)} in all, IC {exp.result.get('IC')} "
        f"(the factors' own run: IC {sota.source.metrics.get('IC')}); workspace {workspace}"
    )
    return exp


def _sota_result(runner: Any, exp: Any, sota: ActiveSota, develop: Any) -> pd.Series[float]:
    """The SOTA factors' own result: as their run recorded it, else measured here."""
    if all(math.isfinite(sota.source.metrics.get(name, math.nan)) for name in _JUDGED_BY):
        return complete_result(sota.source.metrics)
    measured = _measured.get(sota.table.fingerprint)
    if measured is None:
        logger.info("The SOTA factors' own result is not known; they are back-tested once, as they are.")
        alone = make_sota_experiment(sota, whole=True)
        alone.based_experiments = [make_base()]
        if hasattr(exp, "base_features"):
            alone.base_features = exp.base_features
        try:
            measured = develop(runner, alone).result
        finally:
            alone.experiment_workspace.clear()
        _measured[sota.table.fingerprint] = measured
    return measured


_measured: dict[str, pd.Series[float]] = {}


@contextmanager
def _on_top_of(exp: Any, sota: ActiveSota) -> Iterator[None]:
    """Have ``exp`` built on the SOTA factors, and on what this run accepted itself."""
    workspace = exp.experiment_workspace
    execute = workspace.execute
    # The inherited experiments' factors are in the SOTA table.
    own = [other for other in without_inherited(exp.based_experiments) if not _is_placeholder(other)]

    def execute_counted(*args: Any, **kwargs: Any) -> Any:
        # Upstream adds the two counts up, although a mined factor replaces the Alpha feature of its name.
        if "num_features" in kwargs.get("run_env", {}):
            names = read_names(workspace.workspace_path / TABLE_NAME)
            features = combine_features(installed_traits().features_of(exp), names, True)
            kwargs["run_env"] = {**kwargs["run_env"], "num_features": features.count}
        return execute(*args, **kwargs)

    with put_in_front(exp, sota, own, whole=True, execute=execute_counted):
        yield


def _is_placeholder(experiment: Any) -> bool:
    return (
        isinstance(experiment, QlibFactorExperiment)
        and not experiment.sub_tasks
        and not getattr(experiment, "base_feature_codes", None)
    )

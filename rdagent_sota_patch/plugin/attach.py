"""Attach the plugin to a freshly loaded module of RD-Agent."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rdagent_sota_patch._startup import LOOP_MODULE, RUNNER_MODULE
from rdagent_sota_patch.errors import HostError

if TYPE_CHECKING:
    from types import ModuleType

_ATTACHED = "__rdagent_sota_patch__"


def is_attached(module: ModuleType) -> bool:
    """Whether ``module`` carries the plugin."""
    return bool(getattr(module, _ATTACHED, False))


def attach(module: ModuleType) -> None:
    """Attach to ``module``, once.

    Raises:
        HostError: This RD-Agent is not built as the plugin needs it.
    """
    if is_attached(module):
        return
    if module.__name__ == LOOP_MODULE:
        from rdagent_sota_patch.plugin.run_loop import attach_loop

        attach_loop(module)
    elif module.__name__ == RUNNER_MODULE:
        from rdagent.components.workflow import rd_loop

        if not is_attached(rd_loop):
            raise HostError("host-changed", "RD-Agent's loop class could not be attached to.")
        from rdagent_sota_patch.plugin.host_check import require_known_host

        require_known_host()
        from rdagent_sota_patch.plugin.model_runner import attach_model_runner

        attach_model_runner(module)
        from rdagent_sota_patch.plugin.scenario import attach_scenarios

        attach_scenarios()
        from rdagent_sota_patch.plugin.seed_acceptance import attach_seed_acceptance

        attach_seed_acceptance()
        # fin_quant loads its factor runner first, also in processes of its own; fin_model never does.
        factor_runner = sys.modules.get("rdagent.scenarios.qlib.developer.factor_runner")
        if factor_runner is not None:
            from rdagent_sota_patch.plugin.factor_runner import attach_factor_runner

            attach_factor_runner(factor_runner)
    else:
        raise HostError("host-changed", f"{module.__name__} is not a module the plugin attaches to.")
    setattr(module, _ATTACHED, True)

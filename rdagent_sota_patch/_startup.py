"""The start-up hook: wait for two modules of RD-Agent, and attach the plugin right after they load.

``rdagent_sota_patch.pth`` calls ``install`` at every Python start, so this imports nothing heavy and does nothing
in a process that never loads RD-Agent. ``docs/activation.md`` explains it and how to switch it off.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder

TYPE_CHECKING = False  # typing itself would cost more than the rest of this module
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

LOOP_MODULE = "rdagent.components.workflow.rd_loop"
RUNNER_MODULE = "rdagent.scenarios.qlib.developer.model_runner"

_OFF = frozenset({"", "0", "false", "no", "off", "f", "n"})


def _is_on(name: str, default: str = "") -> bool:
    return os.environ.get(name, default).strip().lower() not in _OFF


def is_disabled() -> bool:
    """Whether ``RDAGENT_SOTA_DISABLE`` keeps the plugin from attaching."""
    return _is_on("RDAGENT_SOTA_DISABLE")


def _is_needed() -> bool:
    asked = any(
        map(
            _is_on,
            ("LOAD_SOTA_FROM_LOG", "LOAD_SOTA_FROM_WORKSPACE", "LOAD_SOTA_FACTORS", "SOTA_ACCEPT_SEEDS"),
        )
    )
    # What `rdagent-sota run` fixed for its model stage (environment.py), whatever .env made of the rest.
    return "load_sota" in os.environ.get("RDAGENT_SOTA_SETTINGS", "") or (
        asked and _is_on("SOTA_STRICT", "true")
    )


def attach_after_load(module: ModuleType) -> None:
    """Attach the plugin to a watched module.

    An error becomes one warning line, so that RD-Agent goes on as without the plugin; except where SOTA
    factors were asked for and the model runner could not be reached, or a seal was: going on would train on other
    features, or show the sealed days.
    """
    try:
        from rdagent_sota_patch.plugin.attach import attach

        attach(module)
    except Exception as error:
        print(f"rdagent-sota-patch: not attached to {module.__name__}: {error!r}", file=sys.stderr)
        if (module.__name__ == RUNNER_MODULE and _is_needed()) or os.environ.get(
            "SOTA_SEAL_FROM", ""
        ).strip():
            raise


class AttachFinder:
    """Finds the watched modules as Python itself would, and has them attach the plugin once executed."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Answer for the watched modules only; see ``importlib.abc.MetaPathFinder.find_spec``."""
        if fullname not in (LOOP_MODULE, RUNNER_MODULE) or is_disabled():
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_attach(module: ModuleType) -> None:
            execute(module)
            attach_after_load(module)

        # The loader stays what it was, so that inspect and importlib.resources see nothing unusual.
        spec.loader.exec_module = execute_and_attach  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Put the finder in front of the others, once. Not done by importing: the doctor asks whether it was done."""
    if not is_disabled() and AttachFinder not in sys.meta_path:
        sys.meta_path.insert(0, AttachFinder)

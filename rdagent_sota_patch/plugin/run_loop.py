"""Attach to RD-Agent's loop: check before a run's first LLM call, and save factors when they are accepted.

Both new and resumed runs pass through ``LoopBase.run`` with their base features already chosen
(``rdagent/app/qlib_rd_loop/model.py``), and nothing before it calls the LLM.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from rdagent_sota_patch.errors import HostError, SotaError
from rdagent_sota_patch.settings import load_settings

if TYPE_CHECKING:
    from types import ModuleType


def attach_loop(module: ModuleType) -> None:
    """Wrap ``run`` and ``record`` of ``RDLoop``, the base of ``fin_factor``, ``fin_model`` and ``fin_quant``."""
    loop_class = getattr(module, "RDLoop", None)
    if loop_class is None or not all(callable(getattr(loop_class, name, None)) for name in ("run", "record")):
        raise HostError("host-changed", f"{module.__name__}.RDLoop has no run or record method.")
    run, record = loop_class.run, loop_class.record

    @functools.wraps(run)
    async def run_checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            _prepare(self)
            return await run(self, *args, **kwargs)
        except SotaError as error:
            _stop(error)

    @functools.wraps(record)
    def record_and_save(self: Any, prev_out: dict[str, Any]) -> Any:
        outcome = record(self, prev_out)
        try:
            _save(self)
        except SotaError as error:
            _stop(error)
        return outcome

    loop_class.run = run_checked
    loop_class.record = record_and_save


# RDLoop is the base of other scenarios' loops, too: what they never need is not imported for them.


def _prepare(loop: Any) -> None:
    settings = load_settings()
    for notice in settings.notices():
        _log().warning(str(notice))
    if settings.source is not None or settings.save_sota_factors:
        from rdagent_sota_patch.plugin.preflight import prepare_run

        prepare_run(loop, settings)


def _save(loop: Any) -> None:
    settings = load_settings()
    if settings.save_sota_factors:
        from rdagent_sota_patch.plugin.saving import save_accepted

        save_accepted(loop, settings)


def _log() -> Any:
    from rdagent.log import rdagent_logger

    return rdagent_logger


def _stop(error: SotaError) -> NoReturn:
    _log().error(f"rdagent-sota-patch stopped this run.\n{error}")
    print(f"rdagent-sota-patch stopped this run.\n{error}", file=sys.stderr)
    raise SystemExit(1) from None
